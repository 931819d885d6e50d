"""Stop strings that spell a special token end the answer there, although the text leaves the token out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.openai.scripted import ScriptedServer

TAG = "<|python_tag|>"
# The model's text, the stop string, what is left of the text, and whether the stop string ended it.
CASES = [
    (f"Hi{TAG}more", TAG, "Hi", True),
    (f"Hi\n{TAG}more", f"\n{TAG}", "Hi", True),
    (f"a{TAG}b{TAG}\nuser", f"{TAG}\nu", "ab", True),
    (f"Hi{TAG}mo{TAG}", f"more{TAG}", "Himo", False),
    (f"Hi {TAG}there", f"{TAG}x", "Hi there", False),
]


@pytest.fixture
def llama(server_for: Callable[[str], ScriptedServer]) -> ScriptedServer:
    return server_for("llama-3.3")


@pytest.mark.parametrize(("text", "stop", "left", "stopped"), CASES)
def test_openai(llama: ScriptedServer, text: str, stop: str, left: str, stopped: bool) -> None:
    llama.engine.says(text)
    assert llama.ok("hi", stop=[stop])["choices"][0]["message"]["content"] == left
    chunks = llama.chunks("hi", stop=stop)
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == left
    body = {"prompt": "hi", "stop": stop, "max_tokens": 99}
    assert llama.request("POST", "/v1/completions", body).json["choices"][0]["text"] == left


@pytest.mark.parametrize(("text", "stop", "left", "stopped"), CASES)
def test_tgi(llama: ScriptedServer, text: str, stop: str, left: str, stopped: bool) -> None:
    llama.engine.says(text)
    parameters: dict[str, Any] = {"stop": [stop], "details": True, "max_new_tokens": 99}
    found = llama.request("POST", "/generate", {"inputs": "x", "parameters": parameters}).json
    kept = stop.replace(TAG, "") if stopped else ""
    assert found["generated_text"] == left + kept
    assert found["details"]["finish_reason"] == ("stop_sequence" if stopped else "eos_token")
