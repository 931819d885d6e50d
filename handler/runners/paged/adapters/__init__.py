"""Adapters in batches over pages: their weights in memory that never moves, and each row's own products."""
