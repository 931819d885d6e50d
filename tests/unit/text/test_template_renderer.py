"""Templates in a process of their own: the same text, and an end to those that take all time or memory."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psutil
import pytest

from container.text.template_process import MAX_MEMORY_BYTES
from container.text.template_renderer import RenderProcess
from container.text.template_sandbox import CompiledTemplate, TemplateError

MESSAGES = [{"role": "user", "content": "Hi é 🙂 \ud800"}]


@pytest.fixture
def renderer() -> Iterator[RenderProcess]:
    renderer = RenderProcess()
    yield renderer
    renderer.close()


def render(renderer: RenderProcess, source: str, **variables: object) -> str:
    return renderer.render(CompiledTemplate(source), {"messages": MESSAGES, **variables}, max_chars=1 << 20)


def test_it_is_the_text_of_the_template(renderer: RenderProcess) -> None:
    source = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
    assert render(renderer, source) == CompiledTemplate(source).render({"messages": MESSAGES}, max_chars=1 << 20)
    first = renderer._process
    with pytest.raises(TemplateError, match=r"^no$"):
        render(renderer, "{{ raise_exception('no') }}")
    assert render(renderer, "{{ x }}", x=[1, None, True]) == "[1, None, True]"
    assert renderer._process is first


DOUBLED = "{% for i in range(60) %}{% set ns.x = STEP %}{% endfor %}{{ ns.x | length }}"
BOMBS = {
    "doubled by ~": "{% set ns = namespace(x='ab') %}" + DOUBLED.replace("STEP", "ns.x ~ ns.x"),
    "doubled by join": "{% set ns = namespace(x='ab') %}" + DOUBLED.replace("STEP", "[ns.x, ns.x] | join"),
    "doubled by replace": "{% set ns = namespace(x='aa') %}" + DOUBLED.replace("STEP", "ns.x | replace('a', 'aa')"),
    "doubled by a block": "{% set ns = namespace(x='ab') %}{% for i in range(60) %}"
    "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}{{ ns.x | length }}",
    "a wide center": "{{ 'a' | center(4000000000) | length }}",
    "a wide method": "{{ 'a'.center(4000000000) | length }}",
    "much ipsum": "{{ lipsum(n=100000000) | length }}",
    "an indent of JSON": "{{ [[[1]]] | tojson(indent=2000000000) | length }}",
    "loops in loops": "{% set l = 'x' * 1000 %}{% for a in l %}{% for b in l %}{% for c in l %}{% endfor %}{% endfor %}"
    "{% endfor %}",
}  # fmt: skip


@pytest.mark.parametrize("title", BOMBS)
def test_bombs_end_and_leave_nothing(renderer: RenderProcess, title: str) -> None:
    started_s = time.process_time()
    with pytest.raises(TemplateError) as caught:
        render(renderer, BOMBS[title])
    assert "\n" not in str(caught.value)
    assert time.process_time() - started_s < 1, "this process did no work"
    assert render(renderer, "{{ messages[0].role }}") == "user", "the next render is served"
    assert renderer._process is not None
    assert psutil.Process(renderer._process.pid).memory_info().vms <= MAX_MEMORY_BYTES


def test_a_process_that_was_killed_is_replaced(renderer: RenderProcess) -> None:
    assert render(renderer, "a") == "a"
    assert renderer._process is not None
    renderer._process.kill()
    renderer._process.wait()
    assert render(renderer, "b") == "b"


def test_a_long_conversation_has_room(renderer: RenderProcess) -> None:
    long = "é" * 12_500_000
    source = "{{ messages[0].content }}"
    found = renderer.render(
        CompiledTemplate(source), {"messages": [{"role": "user", "content": long}]}, max_chars=1 << 26
    )
    assert found == long


def test_the_process_goes_when_it_is_closed(renderer: RenderProcess) -> None:
    render(renderer, "a")
    process = renderer._process
    assert process is not None
    renderer.close()
    assert process.poll() is not None
