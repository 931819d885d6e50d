"""`thinking_token_budget` on both routes: what the engine is told, and where there is nothing to limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.openai.scripted import ScriptedServer
from tests.contract.openai.test_sampling import BODIES, asked, refused

both = pytest.mark.parametrize("path", BODIES)


@pytest.fixture
def marked(server_for: Callable[[str], ScriptedServer]) -> ScriptedServer:
    """A model that thinks, whose marks are tokens."""
    return server_for("qwen3-marked")


@both
@pytest.mark.parametrize("budget", [0, 1, 4096])
def test_the_engine_is_told_the_marks(marked: ScriptedServer, path: str, budget: int) -> None:
    opening, closing = (marked.engine.special[mark] for mark in ("<think>", "</think>"))
    found = asked(marked, path, thinking_token_budget=budget).thinking
    assert (found.num_tokens, found.opened_by, found.closed_by) == (budget, (opening,), (closing,))
    assert found.ending == tuple(marked.engine.token_ids("\n</think>\n\n"))
    for unlimited in (None, -1):
        assert asked(marked, path, thinking_token_budget=unlimited).thinking is None


def test_a_thought_that_the_prompt_has_begun(marked: ScriptedServer) -> None:
    begun = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "<think>so"}]
    for text, opened in (("<think>\n", True), ("<think>a</think>", False), ("a", False)):
        marked.engine.says("x")
        body = {"prompt": text, "thinking_token_budget": 3}
        assert marked.request("POST", "/v1/completions", body).status == 200
        assert (marked.engine.requests[0].sampling.thinking.opened_by == ()) == opened
    marked.engine.says("x")
    marked.ok(*begun, thinking_token_budget=3, chat_template_kwargs={"enable_thinking": False})
    assert marked.engine.requests[0].sampling.thinking.opened_by, "the template closes what it opens"


def test_a_continued_thought_is_begun(marked: ScriptedServer) -> None:
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "<think>so"}]
    marked.engine.says("x")
    marked.ok(*said, continue_final_message=True, thinking_token_budget=3)
    assert marked.engine.requests[0].sampling.thinking.opened_by == ()


SPELLINGS: list[tuple[dict[str, Any], str]] = [
    ({"reasoning": {"max_tokens": 5}}, "reasoning.max_tokens"),
    ({"thinking": {"type": "enabled", "budget_tokens": 5}}, "thinking.budget_tokens"),
    ({"thinking_token_budget": 5, "reasoning": {"max_tokens": 5}}, "thinking_token_budget"),
]


@pytest.mark.parametrize(("fields", "place"), SPELLINGS)
def test_a_refusal_names_the_field_that_was_sent(qwen: ScriptedServer, fields: dict[str, Any], place: str) -> None:
    answer = qwen.chat(**fields)
    assert (answer.status, answer.json["error"]["param"]) == (400, place)
    assert answer.json["error"]["message"].startswith(f"`{place}` needs a model that thinks")


@pytest.mark.parametrize(("fields", "place"), SPELLINGS[:2])
def test_a_budget_below_none_is_refused_at_its_place(
    marked: ScriptedServer, fields: dict[str, Any], place: str
) -> None:
    assert asked(marked, "/v1/chat/completions", **fields).thinking.num_tokens == 5
    outer, inner = place.split(".")
    answer = marked.chat(**{outer: {inner: -2}})
    assert (answer.status, answer.json["error"]["param"]) == (400, place)


@both
def test_a_constraint_leaves_nothing_to_limit(marked: ScriptedServer, path: str) -> None:
    found = asked(marked, path, thinking_token_budget=3, guided_regex="x")
    assert found.grammar is not None
    assert found.thinking is None


def test_each_choice_has_the_budget(marked: ScriptedServer) -> None:
    marked.engine.says("<think>a</think>b")
    marked.ok(n=2, thinking_token_budget=7, tools=[TOOL])
    assert [request.sampling.thinking.num_tokens for request in marked.engine.requests] == [7, 7]


TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@both
def test_a_budget_that_cannot_be_kept_is_refused(qwen: ScriptedServer, thinker: ScriptedServer, path: str) -> None:
    assert "needs a model that thinks" in refused(qwen, path, thinking_token_budget=5)
    assert "are tokens" in refused(thinker, path, thinking_token_budget=5)
    assert "from -1 to" in refused(qwen, path, thinking_token_budget=-2)
    for server in (qwen, thinker):
        assert asked(server, path, thinking_token_budget=-1).thinking is None
