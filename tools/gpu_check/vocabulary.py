"""A tokenizer with as many tokens as a model of 8B has, for grammars."""

from __future__ import annotations

import itertools
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

END = "<|im_end|>"


def write_tokenizer(directory: Path, size: int) -> Path:
    """`tokenizer.json` of `size` tokens, bytes and then words of letters; the last is the end. Returns its path."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = "etaoinshrdlcumwfgypbvkjxqz"
    words = ("".join(word) for length in (2, 3, 4) for word in itertools.product(letters, repeat=length))
    texts = itertools.islice(itertools.chain(alphabet, words), size - 1)
    tokenizer = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(texts)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    path = directory / "tokenizer.json"
    tokenizer.save(str(path))
    return path
