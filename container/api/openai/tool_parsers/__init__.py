"""Tool calls in a model's text: a table of the forms that families write, and one reader for all of them."""

from container.api.openai.tool_parsers.form import CallIds, Form
from container.api.openai.tool_parsers.form_parser import FormParser
from container.api.openai.tool_parsers.forms import FORMS, PLAIN
from container.api.openai.tool_parsers.parser import ToolParser
from container.api.openai.tool_parsers.recognition import form_of

__all__ = ["FORMS", "PLAIN", "CallIds", "Form", "FormParser", "ToolParser", "form_of"]
