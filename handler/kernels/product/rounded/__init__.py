"""Products with activations rounded to int8 (docs/decisions/0102)."""
