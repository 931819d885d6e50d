"""Models whose chat template is missing, cannot run or refuses: told once at load, and to every chat in its dialect."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.contract.seam.web import CHAT, TEXT, WebServer

FAULT = "the model's chat template cannot run, chats that need it are refused"


@contextmanager
def serving(template: Any, **files: str) -> Iterator[WebServer]:
    """Two workers over a model with that `chat_template`, and with more files by their names."""
    with tempfile.TemporaryDirectory(prefix="seam-") as directory:
        server = WebServer(Path(directory), {"WEB_WORKERS": "2"})
        try:
            config = Path(directory) / "model" / "tokenizer_config.json"
            config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": template}))
            for name, text in files.items():
                (config.parent / name.replace("_jinja", ".jinja")).write_text(text)
            server.start_engine()
            yield server
            assert server.stop() == 0
        finally:
            server.kill()
            server.engine.close()


def refuses_chats(server: WebServer, sentence: str) -> None:
    """In TGI's words on TGI's routes, as OpenAI's error on OpenAI's; texts are served."""
    for _ in range(4):
        answer = server.post("/chat_tokenize", CHAT)
        assert answer.status == 422
        assert answer.json == {"error": f"Template error: {sentence}", "error_type": "template_error"}
        answer = server.post("/v1/chat/completions", CHAT)
        assert answer.status == 400
        assert answer.json["error"]["code"] == "template_error"
        assert answer.json["error"]["message"].startswith(sentence)
        assert server.post("/generate", TEXT).json == {"generated_text": "hello"}
        assert server.ping() == 200


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{{ messages | no_such_filter }}", "The chat template does not compile: No filter named 'no_such_filter'."),
        ("{{ messages is no_such_test }}", "The chat template does not compile: No test named"),
    ],
)
def test_a_template_that_cannot_run_is_told_once_at_load(template: str, sentence: str) -> None:
    with serving(template) as server:
        server.wait(lambda: FAULT in server.log.read_text())
        reason = server.post("/chat_tokenize", CHAT).json["error"].removeprefix("Template error: ")
        assert reason.startswith(sentence)
        refuses_chats(server, reason)
        lines = [line for line in server.log.read_text().splitlines() if FAULT in line]
        assert len(lines) == 1
        assert reason in lines[0]


def test_of_two_templates_either_may_be_the_one() -> None:
    named = [
        {"name": "default", "template": "{{ messages[0].content }}"},
        {"name": "tool_use", "template": "{{ messages | no_such_filter }}"},
    ]
    with serving(named) as server:
        server.wait(lambda: FAULT in server.log.read_text())
        assert server.post("/chat_tokenize", CHAT).json["templated_text"] == "hi"


def test_a_good_template_is_not_told_of() -> None:
    with serving("{{ messages[0].content }}", chat_template_jinja="jinja: {{ messages[0].content }}") as server:
        for _ in range(4):
            found = server.post("/chat_tokenize", CHAT).json["templated_text"]
            assert found == "jinja: hi", "the file comes before tokenizer_config.json, as in transformers"
        assert FAULT not in server.log.read_text()


def test_a_model_without_a_template() -> None:
    with serving(None) as server:
        refuses_chats(server, "template not found")
        vertex = server.post("/vertex", {"instances": [CHAT]})
        assert (vertex.status, vertex.json["error_type"]) == (422, "template_error")


def test_a_template_that_refuses_is_quoted() -> None:
    with serving("{{ raise_exception('Roles must alternate!') }}") as server:
        refuses_chats(server, "Roles must alternate!")
        assert FAULT not in server.log.read_text()


def test_the_templates_variables() -> None:
    """As TGI's router/src/infer/chat_template.rs: special tokens by name, undefined ones empty, Python's slices."""
    template = (
        "{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ add_generation_prompt }}{{ tools }}"
        "{% generation %}{% for m in messages[::-1] %}{{ m.content }}{% endfor %}{% endgeneration %}"
        "{{ strftime_now('%Y') | length }}"
    )
    with serving(template) as server:
        two = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
        found = server.post("/chat_tokenize", {"messages": two}).json
        assert found["templated_text"] == "<|im_start|><|im_end|>TrueNoneba4"
