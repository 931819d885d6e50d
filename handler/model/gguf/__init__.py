"""A model of .gguf files: where they are, what they say, and the memory that their weights take."""
