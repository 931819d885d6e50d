"""Which parser reads a model's calls: its chat template shows how it was taught to write them."""

from __future__ import annotations

from container.api.openai.tool_parsers.leading import LeadingJsonParser, PythonicParser
from container.api.openai.tool_parsers.marked import MarkedParser
from container.api.openai.tool_parsers.parser import ToolParser

HERMES = ("<tool_call>", "</tool_call>")
MISTRAL = "[TOOL_CALLS]"
_PYTHONIC = "func_name1(params_name1"


def parser_for(template: str, *, forced: bool) -> ToolParser:
    """A new parser. `forced`: a grammar makes the whole answer one JSON call, whatever the family."""
    if forced:
        return MarkedParser(None)
    if HERMES[0] in template:
        return MarkedParser(*HERMES)
    if MISTRAL in template:
        return MarkedParser(MISTRAL)
    if _PYTHONIC in template:
        return PythonicParser()
    if not reads_tools(template):
        return MarkedParser(*HERMES)
    return LeadingJsonParser()


def reads_tools(template: str) -> bool:
    """True if the template has a place for tools."""
    return "tools" in template


def shows_marker_as_special(template: str) -> bool:
    """True if the family's marker is a control token, which is otherwise left out of the text."""
    return MISTRAL in template and HERMES[0] not in template
