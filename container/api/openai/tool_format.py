"""What the log says at start about the form in which the model calls tools."""

from __future__ import annotations

from container.api.openai.template_traits import TemplateTraits, traits_of
from container.serving.served_model import ServedModel


def tool_format(served: ServedModel) -> str:
    """One line. Raises TemplateError if the template does not compile."""
    own = None if served.chat_template is None else traits_of(served.chat_template, served.tokenizer).own
    note = ""
    if own is not None and own.fault:
        note = f"; the checkpoint's response_template is not used, {own.fault}"
    elif own is not None and own.template is not None and not own.reads_calls:
        note = "; answers without tools are read by the checkpoint's response_template"
    return f"tool format: {_format(served)}{note}"


def _format(served: ServedModel) -> str:
    traits = traits_of(served.chat_template, served.tokenizer) if served.chat_template is not None else None
    if traits is not None and traits.takes_tools and traits.own.reads_calls:
        return _own(traits)
    if traits is not None and traits.harmony is not None:
        return "harmony"
    if traits is not None and traits.known_form is not None and not traits.takes_tools:
        return f"{traits.known_form.name}, which our own prompt shows: the chat template takes no tools"
    if traits is None or not traits.takes_tools:
        return "JSON objects, which our own prompt asks for: the chat template takes no tools"
    if traits.known_form is None:
        return (
            "unknown, the chat template shows no form of calls that this server reads; "
            "calls are read as JSON objects, anything else is content"
        )
    return traits.known_form.name


def _own(traits: TemplateTraits) -> str:
    """How answers are read by the checkpoint's own template, and calls are forced."""
    if traits.own.in_harmony:
        return "the checkpoint's response_template; forced and strict calls in harmony"
    if traits.own.form is traits.known_form is not None:
        return f"the checkpoint's response_template; forced and strict calls as {traits.form.name}"
    if traits.own.form is not None:
        return "the checkpoint's response_template; forced and strict calls by its marks"
    if traits.harmony is not None:
        return "the checkpoint's response_template; forced and strict calls are written and read as harmony"
    return (
        "the checkpoint's response_template, for which no grammar is known; "
        f"forced calls are written and read as {traits.form.name}, strict functions are not held to their schemas"
    )
