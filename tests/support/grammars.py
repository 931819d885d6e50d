"""Whether the engine's own grammar takes a text: compiled and walked byte by byte over the tiny tokenizer."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from handler.sampling.grammar import GrammarCompiler, GrammarError
from handler.seam.protocol import Grammar
from tests.support.tiny_models import EOS_ID, VOCAB_SIZE, write_tokenizer


@cache
def _compiler() -> tuple[GrammarCompiler, dict[int, int]]:
    directory = Path(mkdtemp(prefix="grammars"))
    write_tokenizer(directory)
    vocabulary = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    characters = {byte: chr(byte) for byte in printable}
    hidden = (byte for byte in range(256) if byte not in characters)
    characters |= {byte: chr(0x100 + i) for i, byte in enumerate(list(hidden))}
    return GrammarCompiler(directory / "tokenizer.json", VOCAB_SIZE, {EOS_ID}), {
        byte: vocabulary[character] for byte, character in characters.items()
    }


def takes(grammar: Grammar, text: str) -> bool:
    """Whether `text` as a whole fits. Raises GrammarError for a grammar that does not compile."""
    compiler, ids = _compiler()
    constraint = compiler.submit(grammar).result()
    raw = text.encode()
    for i, byte in enumerate(raw):
        if not constraint.mask()[ids[byte]]:
            return False
        if constraint.accept(ids[byte]):
            return i == len(raw) - 1
    return bool(constraint.mask()[EOS_ID])


__all__ = ["GrammarError", "takes"]
