"""Tokenizers and chat templates of real families, each as a directory the engine would leave."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from container.text.chat_template import ChatTemplate
from container.text.tokenizer import Tokenizer

TEMPLATES = Path(__file__).parents[2] / "data" / "chat_templates"
CORPUS = [
    "The quick brown fox jumps over the lazy dog, again and again; system user assistant model.",
    "<html> {\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}} [1, 2, 3] |end| [INST] think\n\n",
    "naïve café — déjà vu, Übermut; 日本語のテキスト, русский текст, العربية, हिन्दी, 😀👩‍👩‍👧🇫🇷",
] * 3  # fmt: skip


@lru_cache(maxsize=64)
def vocab_size(tokenizer: Tokenizer) -> int:
    """The first id that the vocabulary does not hold."""
    return next(index for index in count() if not tokenizer.is_known(index))


@dataclass(frozen=True)
class Family:
    """The tokens of one model family: names, and added tokens that are special or only added."""

    named: dict[str, str]
    special: list[str] = field(default_factory=list)
    plain: list[str] = field(default_factory=list)


CHATML = Family({"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}, ["<|endoftext|>"])
FAMILIES = {
    "llama-3.3": Family(
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        ["<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|python_tag|>", "<|end_of_text|>"],
    ),
    "qwen2.5": Family(
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        ["<|im_start|>"],
        ["<tool_call>", "</tool_call>"],
    ),
    "qwen3": Family(
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        ["<|im_start|>"],
        ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"],
    ),
    "mistral-nemo": Family(
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        "[INST] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_CALLS] [TOOL_RESULTS] [/TOOL_RESULTS]".split(),  # noqa: SIM905
    ),
    "gemma-2": Family({"bos_token": "<bos>", "eos_token": "<eos>"}, ["<start_of_turn>", "<end_of_turn>"]),
    "gemma-3": Family({"bos_token": "<bos>", "eos_token": "<eos>"}, ["<start_of_turn>", "<end_of_turn>"]),
    "phi-3.5": Family(
        {"bos_token": "<s>", "eos_token": "<|endoftext|>"},
        ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
    ),
    "phi-4-mini": Family(
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
        ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
        ["<|tool|>", "<|/tool|>", "<|tool_call|>", "<|/tool_call|>", "<|tool_response|>"],
    ),
    "zephyr": Family({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
    "smollm2": CHATML,
}


@dataclass(frozen=True)
class Model:
    """One directory, read by us and by transformers."""

    directory: Path
    tokenizer: Tokenizer
    template: ChatTemplate | None
    reference: Any


def byte_level_backend() -> tokenizers.Tokenizer:
    """A byte-level BPE with a few hundred merges."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    )
    return backend


def sentencepiece_backend() -> tokenizers.Tokenizer:
    """A BPE as converted from Llama 2's sentencepiece model: prefix space, byte fallback, first space
    stripped.
    """
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = sorted({letter for text in CORPUS[:2] for letter in text if letter.isascii() and letter > " "})
    pieces += ["▁", *letters, "▁a", "an", "▁an", "▁the", "th", "▁th", "in", "en", "▁▁", "|im", "▁<"]
    merges = [("▁", "a"), ("a", "n"), ("▁a", "n"), ("t", "h"), ("▁", "th"), ("▁th", "e"), ("i", "n"), ("e", "n")]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    merges = [*merges, ("▁", "▁"), ("▁", "<")]
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in ("<unk>", "<s>", "</s>")])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return backend


def save_with_transformers(
    directory: Path, backend: tokenizers.Tokenizer, family: Family, chat_template: Any = None
) -> None:
    """Write `directory` as the engine does: by transformers' `save_pretrained`."""
    from transformers import PreTrainedTokenizerFast

    special = [AddedToken(text, special=True, normalized=False) for text in family.special]
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in family.plain])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        additional_special_tokens=special,
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
        **family.named,
    )
    fast.save_pretrained(directory)


def open_model(directory: Path) -> Model:
    from transformers import AutoTokenizer

    tokenizer = Tokenizer.load(directory)
    reference = AutoTokenizer.from_pretrained(directory)
    return Model(directory, tokenizer, ChatTemplate.load(directory, tokenizer), reference)
