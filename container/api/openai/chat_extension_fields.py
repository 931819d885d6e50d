"""Fields of vLLM's and SGLang's clients on /v1/chat/completions alone."""

from __future__ import annotations

from typing import Annotated, Any

from container.api.bounds import shown
from container.api.openai.sampling import SamplingFields
from container.api.validation import check
from container.errors import InvalidRequest
from container.settings import Settings

# Longer than any published template.
_MAX_TEMPLATE_CHARS = 262_144


class ChatExtensionFields(SamplingFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What vLLM and SGLang add to OpenAI's chat. None counts as absent.

    `separate_reasoning` false leaves thoughts in the text, `stream_reasoning` false streams each in one piece (SGLang).
    """

    documents: list[dict[str, Any]] | None = None
    chat_template: Annotated[str | None, shown(minLength=1, maxLength=_MAX_TEMPLATE_CHARS)] = None
    include_reasoning: bool | None = None
    separate_reasoning: bool | None = None
    stream_reasoning: bool | None = None
    echo: bool | None = None


def check_chat_extensions(request: ChatExtensionFields, settings: Settings) -> None:
    """Raise InvalidRequest naming the field."""
    template = request.chat_template
    if template is None:
        return
    if not settings.trust_request_chat_template:
        raise InvalidRequest(
            "`chat_template` is code, which this server runs only with TRUST_REQUEST_CHAT_TEMPLATE=true",
            param="chat_template",
        )
    allowed = f"a template of 1 to {_MAX_TEMPLATE_CHARS} characters"
    check("chat_template", allowed, template, 0 < len(template) <= _MAX_TEMPLATE_CHARS)
