"""Whether a template takes tools, found by rendering a tool that has everything a tool can have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from container.api.openai.template_traits import TemplateTraits
from container.errors import TemplateFailed
from container.text.chat_template import ChatTemplate, TemplateEnded
from container.text.template_renderer import InProcess
from container.text.template_sandbox import CompiledTemplate
from container.text.tokenizer import Tokenizer
from tests.unit.text.text_models import CHATML, byte_level_backend, save_with_transformers

# What published templates read of a tool. Each fails where it is absent.
_READ = {
    "properties": "{% for name, p in f.parameters.properties.items() %}{{ p.type + p.description }}{% endfor %}",
    "required": "{{ f.parameters['required'] | join(', ') + f.name }}",
    "a type by a table": "{% for p in f.parameters.properties.values() %}"
    "{{ {'string': 'str', 'array': 'list', 'object': 'dict'}[p.type] + f.name }}{% endfor %}",
    "items": "{% for p in f.parameters.properties.values() if p.type == 'array' %}"
    "{{ p['items']['type'] + f.name }}{% endfor %}",
    "nested properties": "{% for p in f.parameters.properties.values() if p.type == 'object' %}"
    "{{ f.name }}{% for q in p.properties.values() %}{{ q.type + q.description }}{% endfor %}{% endfor %}",
    "enum": "{% for p in f.parameters.properties.values() if p.enum %}{{ f.name + p.enum[0] + p.default }}{% endfor %}",
    "name alone": "{{ f.name }}",
    "description alone": "{{ f.description }}",
}
TAKING = {"whole": "{{ tools | tojson if tools }}"} | {
    name: "{% for tool in tools or [] %}{% set f = tool.function %}" + text + "{% endfor %}"
    for name, text in _READ.items()
}
NOT_TAKING = {
    "no word of tools": "",
    "only whether there are any": "{% if tools %}You have tools.{% endif %}",
    "refused": "{% if tools %}{{ raise_exception('no tools') }}{% endif %}",
    "another form of tool": "{% for tool in tools or [] %}{{ tool.name }}{% endfor %}",
    "beside a system message alone": "{% if messages[0].role == 'system' %}{{ tools | tojson if tools }}{% endif %}",
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory: Path = tmp_path_factory.mktemp("model")
    save_with_transformers(directory, byte_level_backend(), CHATML)
    return Tokenizer.load(directory)


@pytest.mark.parametrize(
    ("source", "takes"),
    [*((text, True) for text in TAKING.values()), *((text, False) for text in NOT_TAKING.values())],
    ids=[*TAKING, *NOT_TAKING],
)
def test_takes_tools(tokenizer: Tokenizer, source: str, takes: bool) -> None:
    template = source + "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
    assert TemplateTraits(ChatTemplate({"default": template}, tokenizer), tokenizer).takes_tools is takes
    named = {"default": "{{ messages[0].content }}", "tool_use": template}
    assert TemplateTraits(ChatTemplate(named, tokenizer), tokenizer).takes_tools is takes


class KilledFirst(InProcess):
    """Its process is killed in the first render."""

    killed = False

    def render(self, template: CompiledTemplate, variables: Mapping[str, Any], *, max_chars: int) -> str:
        if not self.killed:
            self.killed = True
            raise TemplateEnded("killed")
        return super().render(template, variables, max_chars=max_chars)


def test_a_renderer_that_was_killed_says_nothing_of_the_template(tokenizer: Tokenizer) -> None:
    source = "{% for m in messages %}{{ m.content }}{% endfor %}"
    traits = TemplateTraits(ChatTemplate({"default": source}, tokenizer, KilledFirst()), tokenizer)
    with pytest.raises(TemplateFailed, match="killed"):
        _ = traits.takes_system
    assert traits.takes_system
