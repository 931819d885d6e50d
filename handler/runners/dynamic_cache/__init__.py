"""Any family, on transformers' own cache. Imports no other runner."""
