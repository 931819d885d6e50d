"""The dialects: one folder each, from JSON to a `Prompt` and from deltas to JSON. No dialect knows another."""
