"""Files in, a loaded transformers model out. Never imports runners."""
