"""The prompt's token ids: `add_special_tokens` on both routes, over tokenizers that add something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing

from container.api.openai.chat_prompt import chat_prompt
from container.api.openai.chat_request import parse_chat
from container.api.openai.completion_request import parse_completion, tokenized
from container.serving.served_model import ServedModel
from container.settings import Settings
from container.text.chat_template import ChatTemplate
from container.text.tokenizer import Tokenizer
from handler.seam.protocol import ModelCard
from tests.support.tiny_models import CHATML, VOCAB_SIZE, write_tokenizer

BOS, END = 256, 258
USER = {"role": "user", "content": "hi"}
ADDED = {"$A": ([], []), "<|im_start|> $A": ([BOS], []), "<|im_start|> $A <|endoftext|>": ([BOS], [END])}


def served_with(directory: Path, single: str = "$A", template: str = CHATML) -> ServedModel:
    write_tokenizer(directory)
    path = str(directory / "tokenizer.json")
    backend = Backend.from_file(path)
    special = [("<|im_start|>", BOS), ("<|endoftext|>", END)]
    backend.post_processor = TemplateProcessing(single=single, special_tokens=special)
    backend.save(path)
    tokenizer = Tokenizer.load(directory)
    card = ModelCard(
        model_id="m", tokenizer_dir=str(directory), revision=None, vocab_size=VOCAB_SIZE, max_model_len=512,
        eos_token_ids=[257], dtype="float32", device="cpu", quantize="none", kv_capacity_tokens=512,
    )  # fmt: skip
    return ServedModel(card, tokenizer, ChatTemplate({"default": template}, tokenizer), 511)


def chat_ids(served: ServedModel, **fields: Any) -> list[int]:
    chat = parse_chat({"messages": [USER], **fields}, Settings(), VOCAB_SIZE)
    return chat_prompt(chat, served).token_ids


@pytest.mark.parametrize("single", ADDED)
def test_a_text_has_special_tokens_unless_it_says_no(tmp_path: Path, single: str) -> None:
    served = served_with(tmp_path, single)
    plain = served.tokenizer.encode("hi", add_special_tokens=False)
    before, after = ADDED[single]
    for added in (None, True, False):
        body = {"prompt": ["hi", "hi"], "add_special_tokens": added}
        found = tokenized(parse_completion(body, Settings(), VOCAB_SIZE), served)
        assert found == [plain if added is False else [*before, *plain, *after]] * 2
    ids = tokenized(parse_completion({"prompt": plain, "add_special_tokens": True}, Settings(), VOCAB_SIZE), served)
    assert ids == [plain], "token ids are the client's own"


@pytest.mark.parametrize("single", ADDED)
@pytest.mark.parametrize("content", ["hi", "<|im_end|> hi"])
def test_a_chat_has_them_only_if_it_says_yes(tmp_path: Path, single: str, content: str) -> None:
    """The template writes its own."""
    served = served_with(tmp_path, single)
    messages = [{"role": "user", "content": content}]
    absent, no, yes = (chat_ids(served, messages=messages, add_special_tokens=added) for added in (None, False, True))
    before, after = ADDED[single]
    assert absent == no
    assert yes == [*before, *no, *after]
