"""Tool calls in a model's text: one parser for each family's way of writing them."""

from container.api.openai.tool_parsers.family import Family, parser_of
from container.api.openai.tool_parsers.parser import ToolParser

__all__ = ["Family", "ToolParser", "parser_of"]
