"""A model's template is found where transformers finds it."""

from __future__ import annotations

import json

import pytest

from container.text.chat_template import ChatTemplate, TemplateError
from container.text.template_files import read_templates
from container.text.tokenizer import Tokenizer
from tests.unit.text.text_models import CHATML, byte_level_backend, save_with_transformers

USER = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.fixture
def directory(tmp_path):
    save_with_transformers(tmp_path, byte_level_backend(), CHATML)
    return tmp_path


def configure(directory, chat_template):
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": chat_template}))


def check(directory):
    """What both render, with and without tools."""
    from transformers import AutoTokenizer

    template = ChatTemplate.load(directory, Tokenizer.load(directory))
    reference = AutoTokenizer.from_pretrained(directory)
    texts = []
    for tools in (None, [], TOOLS):
        text = template.render(USER, tools=tools).text
        assert text == reference.apply_chat_template(USER, tools=tools, tokenize=False, add_generation_prompt=True)
        texts.append(text)
    return texts


NAMED = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}, {"name": "rag", "template": "R"}]


def test_a_string_in_the_configuration(directory):
    configure(directory, "C")
    assert check(directory) == ["C", "C", "C"]


def test_a_list_in_the_configuration(directory):
    configure(directory, NAMED)
    assert check(directory) == ["D", "T", "T"]


def test_a_file_hides_the_configuration(directory):
    configure(directory, NAMED)
    (directory / "chat_template.jinja").write_text("F")
    assert check(directory) == ["F", "F", "F"]


def test_additional_files_stand_beside_the_file(directory):
    configure(directory, "C")
    (directory / "chat_template.jinja").write_text("F é")
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates" / "tool_use.jinja").write_text("A")
    assert check(directory) == ["F é", "A", "A"]


def test_a_processor_s_file_comes_before_the_configuration(directory):
    """TGI and transformers' processors read `chat_template.json`; the tokenizers' loader does not."""
    configure(directory, "C")
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": "P"}))
    assert read_templates(directory) == {"default": "P"}
    (directory / "chat_template.jinja").write_text("F")
    assert read_templates(directory) == {"default": "F"}


def test_no_template_is_none(directory):
    assert ChatTemplate.load(directory, Tokenizer.load(directory)) is None
    configure(directory, None)
    assert ChatTemplate.load(directory, Tokenizer.load(directory)) is None


def test_several_templates_without_a_default_are_refused(directory):
    configure(directory, NAMED[1:])
    with pytest.raises(TemplateError, match=r"several chat templates \(rag, tool_use\) and none is the default"):
        ChatTemplate.load(directory, Tokenizer.load(directory))


@pytest.mark.parametrize(
    "value", [7, {"default": "x"}, ["x"], [{"name": "default"}], [{"name": "default", "template": 1}], [7]]
)
def test_other_shapes_are_refused(directory, value):
    configure(directory, value)
    with pytest.raises(TemplateError, match="neither a string nor a list of templates"):
        ChatTemplate.load(directory, Tokenizer.load(directory))


def test_unreadable_files_are_refused(directory):
    (directory / "chat_template.json").write_text("{")
    with pytest.raises(TemplateError, match="is not readable"):
        read_templates(directory)
    (directory / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(TemplateError, match="is not readable"):
        read_templates(directory)


def test_a_broken_template_is_refused_at_load(directory):
    configure(directory, "{% for %}")
    with pytest.raises(TemplateError, match="does not compile"):
        ChatTemplate.load(directory, Tokenizer.load(directory))


def test_the_sources_of_both_variants_are_known(directory):
    configure(directory, NAMED)
    template = ChatTemplate.load(directory, Tokenizer.load(directory))
    assert (template.source, template.tool_source) == ("D", "T")
    configure(directory, "C")
    template = ChatTemplate.load(directory, Tokenizer.load(directory))
    assert (template.source, template.tool_source) == ("C", "C")
