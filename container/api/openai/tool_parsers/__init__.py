"""Reading tool calls out of a model's text, one parser for each family's way of writing them."""

from container.api.openai.tool_parsers.choose import parser_for
from container.api.openai.tool_parsers.parser import ToolParser

__all__ = ["ToolParser", "parser_for"]
