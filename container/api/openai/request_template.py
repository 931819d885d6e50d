"""The template that renders a chat: the request's own where the operator trusts it, else the model's."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from container.errors import TemplateFailed
from container.serving.served_model import ServedModel
from container.text.chat_template import ChatTemplate, TemplateError
from container.text.tokenizer import Tokenizer

_MAX_KEPT = 8


def template_for(source: str | None, served: ServedModel) -> ChatTemplate:
    """The template `source`, or the model's. Raises TemplateFailed if there is none or if it does not parse."""
    if source is not None:
        renderer: Any = served.renderer
        try:
            return _parsed(source, served.tokenizer, renderer)
        except TemplateError as exc:
            raise TemplateFailed(str(exc)) from exc
    if served.chat_template is None:
        raise TemplateFailed("template not found: this model has no chat template; use /generate or /v1/completions")
    return served.chat_template


@lru_cache(maxsize=_MAX_KEPT)
def _parsed(source: str, tokenizer: Tokenizer, renderer: Any) -> ChatTemplate:
    """Clients send the same template with each request."""
    return ChatTemplate({"default": source}, tokenizer, renderer)
