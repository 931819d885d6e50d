"""Prompt token ids to text deltas, through the engines' sockets. No HTTP, no JSON."""
