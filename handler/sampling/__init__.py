"""Logits in, token ids out. Knows sequences, never runners or the engine."""
