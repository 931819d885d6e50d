"""Token ids to text deltas, over sockets to the engines. No HTTP, no JSON."""
