"""Which form a model has: told by its template, by what that renders, or by its vocabulary."""

# ruff: noqa: RUF001 - marks of DeepSeek have fullwidth bars

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from container.api.openai.template_traits import TemplateTraits
from container.api.openai.tool_parsers import FORMS, PLAIN, FormParser, form_of
from container.text.chat_template import ChatTemplate
from tests.support.call_forms import WIRES

TEMPLATES = Path(__file__).resolve().parents[2] / "data" / "chat_templates"
# What a template says of calls beside the marks, where the marks alone do not tell the form.
BESIDE = {
    "functionary-v3.2": ">>>\n// Supported function definitions",
    "glm-4": "<|observation|>",
    "xlam": '[{"name": "tool_call_name", "arguments": {}}]',
}


class Vocabulary:
    """A tokenizer's added tokens."""

    special_tokens_map: Mapping[str, str] = {}
    control_tokens: frozenset[str] = frozenset()
    response_template: Any = None

    def __init__(self, *added: str) -> None:
        self.added_tokens = frozenset(added)


def traits(source: str, *added: str) -> TemplateTraits:
    vocabulary: Any = Vocabulary(*added)
    return TemplateTraits(ChatTemplate({"default": source}, vocabulary), vocabulary)


@pytest.mark.parametrize("name", [name for name in WIRES if name != PLAIN.name])
def test_a_template_that_shows_a_call_tells_the_form(name: str) -> None:
    said = json.dumps(f"Call like this: {WIRES[name]}\n{BESIDE.get(name, '')}", ensure_ascii=False)
    found = traits(f"{{{{ tools | tojson if tools else '' }}}}{{{{ {said} }}}}{{{{ messages[0].content }}}}").form
    assert found.name == name


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("qwen2.5", "hermes"),
        ("qwen3", "hermes"),
        ("llama-3.3", "llama-3"),
        ("mistral-nemo", "mistral"),
        ("phi-4-mini", "phi-4-mini"),
        ("smollm2", None),
        ("gemma-3", None),
        ("xml-calls", "qwen3-coder"),
        ("pythonic", "pythonic"),
    ],
)
def test_the_templates_of_published_models(template: str, name: str | None) -> None:
    found = traits((TEMPLATES / f"{template}.jinja").read_text()).known_form
    assert (found and found.name) == name


def test_marks_that_only_the_rendered_prompt_spells() -> None:
    """DeepSeek V3.2 puts its marks together from a variable."""
    source = (
        "{% set d = '｜DSML｜' %}{% if tools %}{{ tools | tojson }} Write <{{ d }}function_calls>{% endif %}"
        "{{ messages[0].content }}"
    )
    assert traits(source).form.name == "deepseek-v3.2"


def test_marks_that_only_past_calls_show() -> None:
    source = (
        "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.content }}"
        "{% for c in m.tool_calls or [] %}{{ '<|tool_' + 'call>call:' }}{{ c.function.name }}{% endfor %}{% endfor %}"
    )
    assert traits(source).form.name == "gemma-4"


TOOLS_ONLY = "{{ tools | tojson if tools else '' }}{{ messages[0].content }}"


@pytest.mark.parametrize("name", [form.name for form in FORMS if form.tokens])
def test_a_template_that_shows_no_marks_leaves_it_to_the_vocabulary(name: str) -> None:
    (form,) = (form for form in FORMS if form.name == name)
    assert traits(TOOLS_ONLY, *form.tokens, "<|im_start|>").form.name == name


def test_an_unknown_form_is_read_as_json() -> None:
    found = traits(TOOLS_ONLY, "<|im_start|>", "<tool_call>")
    assert (found.known_form, found.form) == (None, PLAIN)
    assert traits("{{ messages[0].content }}<tool_call>").form is PLAIN, "the template takes no tools"


def test_hunyuans_marks_share_a_suffix() -> None:
    text = WIRES["hunyuan-3"]
    for mark in ("tool_calls", "tool_call", "tool_sep", "arg_key", "arg_value"):
        text = text.replace(f"{mark}>", f"{mark}:opensource>")
    for found in (form_of(text), form_of("", {"<tool_calls:opensource>", "<arg_key:opensource>"})):
        assert found is not None
        assert found.name == "hunyuan-3"
        assert "<tool_call:opensource>" in found.marks
        parser = FormParser(found, {"weather": {}, "now": {}})
        assert "weather" in str(parser.push(text))
        assert "tool_call" not in str(parser.flush())
