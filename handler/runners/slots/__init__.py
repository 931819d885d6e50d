"""CPU: one contiguous stretch of KV memory per sequence, fused layers. Imports no other runner."""
