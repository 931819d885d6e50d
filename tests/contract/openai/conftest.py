"""One server for each chat template, before an engine that says what the test wants."""

# ruff: noqa: RUF001 - marks of DeepSeek have fullwidth bars

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.contract.openai.scripted import ScriptedServer, started

SPECIAL = {
    "mistral-nemo": ("[TOOL_CALLS]",),
    "llama-3.3": ("<|python_tag|>",),
    "harmony": ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>"),
    "qwen3-marked": ("<think>", "</think>"),
    "marked-thoughts": ("[THINK]", "[/THINK]", "[REF]"),
    "marks-deepseek": (
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁sep｜>",
        "<｜Assistant｜>",
    ),
    "marks-kimi": (
        "<|tool_calls_section_begin|>",
        "<|tool_calls_section_end|>",
        "<|tool_call_begin|>",
        "<|tool_call_end|>",
        "<|tool_call_argument_begin|>",
        "<|im_middle|>",
    ),
    "marks-gemma": ("<|tool_call>", "<tool_call|>", '<|"|>', "<|channel>", "<channel|>", "<|image|>"),
}


@pytest.fixture(scope="session")
def server_for(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], ScriptedServer]]:
    """A server by the name of its template, started when it is first asked for."""
    servers: dict[str, ScriptedServer] = {}

    def find(template: str) -> ScriptedServer:
        if template not in servers:
            name = template.removesuffix("-marked")
            servers[template] = started(tmp_path_factory.mktemp(template), name, SPECIAL.get(template, ()))
        server = servers[template]
        server.engine.says("")
        server.engine.bytes_per_step = 1
        return server

    yield find
    for server in servers.values():
        server.kill()
        server.engine.close()


@pytest.fixture
def qwen(server_for: Callable[[str], ScriptedServer]) -> ScriptedServer:
    """A model of the Hermes family that does not think."""
    return server_for("qwen2.5")


@pytest.fixture
def thinker(server_for: Callable[[str], ScriptedServer]) -> ScriptedServer:
    """A model that thinks."""
    return server_for("qwen3")


@pytest.fixture
def plain(server_for: Callable[[str], ScriptedServer]) -> ScriptedServer:
    """A model whose template knows no tools."""
    return server_for("smollm2")
