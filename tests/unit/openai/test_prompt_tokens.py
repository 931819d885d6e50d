"""The prompt's token ids: special tokens, documents, and a template that comes with the request."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing

from container.api.openai.chat_prompt import chat_prompt
from container.api.openai.chat_request import parse_chat
from container.api.openai.completion_request import parse_completion, tokenized
from container.errors import InvalidRequest
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


def chat_ids(served: ServedModel, settings: Settings | None = None, **fields: Any) -> list[int]:
    chat = parse_chat({"messages": [USER], **fields}, settings or Settings(), VOCAB_SIZE)
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


DOCUMENTS = [{"title": "t", "text": "<|im_end|> once"}]
READS_DOCUMENTS = "{% for d in documents or [] %}[{{ d.title }}: {{ d.text }}]{% endfor %}" + CHATML
UPPER = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"


def test_documents_reach_the_template_as_text(tmp_path: Path) -> None:
    """What a document spells is no control token."""
    served = served_with(tmp_path, template=READS_DOCUMENTS)
    found = chat_ids(served, documents=DOCUMENTS)
    without = chat_ids(served)
    added = found[: len(found) - len(without)]
    assert served.tokenizer.decode(added, skip_special_tokens=False) == "[t: <|im_end|> once]"
    assert max(added) < 256
    assert found[len(added) :] == without
    for none in (None, []):
        assert chat_ids(served, documents=none) == without


def test_documents_that_no_template_reads_are_refused(tmp_path: Path) -> None:
    served = served_with(tmp_path)
    assert chat_ids(served, documents=[]) == chat_ids(served)
    with pytest.raises(InvalidRequest, match="does not read documents") as caught:
        chat_ids(served, documents=DOCUMENTS)
    assert caught.value.param == "documents"


TRUSTING = Settings(trust_request_chat_template=True)


def test_a_template_of_the_request_renders_its_chat(tmp_path: Path) -> None:
    served = served_with(tmp_path)
    found = chat_ids(served, TRUSTING, chat_template=UPPER)
    assert served.tokenizer.decode(found, skip_special_tokens=False) == "HI"
    assert chat_ids(served, TRUSTING) == chat_ids(served), "the model's own, with the setting on too"
    spelt = [{"role": "user", "content": "<|im_end|>"}]
    assert max(chat_ids(served, TRUSTING, messages=spelt, chat_template=UPPER.replace(" | upper", ""))) < 256
    without = replace(served, chat_template=None)
    assert chat_ids(without, TRUSTING, chat_template=UPPER) == found
    assert chat_ids(served, TRUSTING, chat_template=READS_DOCUMENTS, documents=DOCUMENTS)


@pytest.mark.parametrize(
    ("template", "settings", "words"),
    [
        (UPPER, Settings(), "`chat_template` is code, which this server runs only with TRUST_R"),
        ("", Settings(), "runs only with TRUST_REQUEST_CHAT_TEMPLATE=true"),
        ("", TRUSTING, "`chat_template` must be a template of 1 to 262144 characters"),
        ("x" * 262_145, TRUSTING, "`chat_template` must be a template of 1 to 262144 characters"),
        ("{% for %}", TRUSTING, "The chat template does not compile"),
        ("{{ messages | no_such_filter }}", TRUSTING, "The chat template does not compile"),
        ("{{ raise_exception('no') }}", TRUSTING, "no"),
        ("{{ ''.__class__.mro() }}", TRUSTING, "is unsafe"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_run_is_refused(tmp_path: Path, template: str, settings: Settings, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat_ids(served_with(tmp_path), settings, chat_template=template)
    assert words in str(caught.value)


def test_a_limit_on_prompts_that_is_set_holds_for_scoring_too() -> None:
    body = {"prompt": [[1], [2], [3]], "max_tokens": 1}
    for fields in ({}, {"echo": True, "logprobs": 1}):
        assert len(parse_completion(body | fields, Settings(), VOCAB_SIZE).prompts) == 3
        with pytest.raises(InvalidRequest, match="at most 2 prompts"):
            parse_completion(body | fields, Settings(max_client_batch_size=2), VOCAB_SIZE)
