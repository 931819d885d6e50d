"""GGUF: ggml's block types, and the weights of a .gguf file under a transformers model's names."""
