"""The forms of calls that models were trained on, recognized by the text of their chat templates."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

from container.api.openai.tool_parsers import mistral
from container.api.openai.tool_parsers.bare import BareParser
from container.api.openai.tool_parsers.mistral import MistralParser
from container.api.openai.tool_parsers.parser import ToolParser
from container.api.openai.tool_parsers.pythonic import TAGS as PYTHONIC_TAGS
from container.api.openai.tool_parsers.pythonic import PythonicParser
from container.api.openai.tool_parsers.tagged import TaggedParser
from container.api.openai.tool_parsers.xml_calls import FUNCTION, XmlParser

HERMES_TAGS = ("<tool_call>", "</tool_call>")
PHI_TAGS = ("<|tool_call|>", "<|/tool_call|>")
PYTHON_TAG = "<|python_tag|>"


class Family(enum.Enum):
    """PLAIN is a JSON object without markers: the form we ask for if the template shows no known one."""

    HERMES = enum.auto()
    QWEN_XML = enum.auto()
    PHI = enum.auto()
    LLAMA = enum.auto()
    PYTHONIC = enum.auto()
    MISTRAL = enum.auto()
    MISTRAL_NAMED = enum.auto()
    PLAIN = enum.auto()

    @classmethod
    def of(cls, template: str) -> Family:
        """The family whose markers occur in the template's text."""
        return next((family for family, marks in _MARKS if all(mark in template for mark in marks)), cls.PLAIN)

    @property
    def markers(self) -> tuple[str, ...]:
        """Markers that must stay in the text even if they are control tokens."""
        return _VISIBLE[self]


_MARKS: tuple[tuple[Family, tuple[str, ...]], ...] = (
    (Family.MISTRAL_NAMED, (mistral.MARKER, mistral.ARGUMENTS)),
    (Family.MISTRAL, (mistral.MARKER,)),
    # Qwen3-Coder writes XML between Hermes' tags.
    (Family.QWEN_XML, (HERMES_TAGS[0], FUNCTION)),
    (Family.HERMES, HERMES_TAGS[:1]),
    (Family.PHI, PHI_TAGS[:1]),
    (Family.PYTHONIC, ("func_name1(",)),
    (Family.LLAMA, (PYTHON_TAG,)),
)
_VISIBLE: dict[Family, tuple[str, ...]] = {
    Family.HERMES: HERMES_TAGS,
    Family.QWEN_XML: HERMES_TAGS,
    Family.PHI: PHI_TAGS,
    Family.LLAMA: (PYTHON_TAG,),
    Family.PYTHONIC: PYTHONIC_TAGS,
    Family.MISTRAL: (mistral.MARKER,),
    Family.MISTRAL_NAMED: (mistral.MARKER, mistral.ARGUMENTS, "[CALL_ID]"),
    Family.PLAIN: (),
}


def parser_of(family: Family, schemas: Mapping[str, dict[str, Any]]) -> ToolParser:
    """A new parser for one answer; `schemas` maps each callable function to its parameters."""
    names = frozenset(schemas)
    match family:
        case Family.HERMES:
            return TaggedParser(*HERMES_TAGS, names)
        case Family.QWEN_XML:
            return XmlParser(schemas)
        case Family.PHI:
            return TaggedParser(*PHI_TAGS, names)
        case Family.MISTRAL | Family.MISTRAL_NAMED:
            return MistralParser(names)
        case Family.PYTHONIC:
            return PythonicParser(names)
        case Family.LLAMA:
            return BareParser(names, PYTHON_TAG)
        case Family.PLAIN:
            return BareParser(names)
