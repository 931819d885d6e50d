"""tokenizer.model in, tokenizer.json out, without the library sentencepiece (docs/decisions/0088)."""
