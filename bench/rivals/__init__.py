"""This server beside others on one machine: vLLM on CPU, llama.cpp's server, transformers serve."""
