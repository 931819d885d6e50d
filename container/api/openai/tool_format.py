"""What the log says at start about the form in which the model calls tools."""

from __future__ import annotations

from container.api.openai.template_traits import traits_of
from container.serving.served_model import ServedModel


def tool_format(served: ServedModel) -> str:
    """One line. Raises TemplateError if the template does not compile."""
    traits = traits_of(served.chat_template, served.tokenizer) if served.chat_template is not None else None
    if traits is not None and traits.harmony is not None:
        return "tool format: harmony"
    if traits is not None and traits.known_form is not None and not traits.takes_tools:
        return f"tool format: {traits.known_form.name}, which our own prompt shows: the chat template takes no tools"
    if traits is None or not traits.takes_tools:
        return "tool format: JSON objects, which our own prompt asks for: the chat template takes no tools"
    if traits.known_form is None:
        return (
            "tool format: unknown, the chat template shows no form of calls that this server reads; "
            "calls are read as JSON objects, anything else is content"
        )
    return f"tool format: {traits.known_form.name}"
