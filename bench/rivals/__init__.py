"""Compares this server with vLLM on CPU, llama.cpp's server and transformers serve on one machine."""
