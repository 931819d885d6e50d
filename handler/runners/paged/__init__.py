"""CUDA: KV memory in pages, decode steps as captured graphs. Imports no other runner."""
