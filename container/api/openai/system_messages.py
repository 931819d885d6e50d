"""System messages where the template takes them: folded into the first if it takes no later ones."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

from container.api.openai.template_traits import Place, TemplateTraits

logger = logging.getLogger(__name__)

Message = dict[str, Any]
SYSTEM_ROLES = frozenset({"system", "developer"})


def folded(messages: list[Message], traits: TemplateTraits) -> list[Message]:
    """The messages with those system messages in the first one, or in front, that the template loses or refuses.

    Roles are those that the template knows. The parts are separated by a blank line.
    """
    lost = [i for i, message in enumerate(messages) if _is_later(messages, i) and not _is_taken(messages, i, traits)]
    if not lost or not traits.takes_system:
        return messages
    _log_once()
    moved = [messages[i] for i in lost]
    rest = [message for i, message in enumerate(messages) if i not in lost]
    if rest and rest[0]["role"] in SYSTEM_ROLES:
        moved.insert(0, rest.pop(0))
    return [{**moved[0], "content": "\n\n".join(filter(None, map(text_of, moved)))}, *rest]


def text_of(message: Message) -> str:
    """The text of a message, whose content is a text or a list of text parts."""
    content = message.get("content", "")
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _is_later(messages: list[Message], index: int) -> bool:
    return index > 0 and messages[index]["role"] in SYSTEM_ROLES


def _is_taken(messages: list[Message], index: int, traits: TemplateTraits) -> bool:
    if all(message["role"] in SYSTEM_ROLES for message in messages[:index]):
        place = Place.SECOND
    else:
        place = Place.LAST if index == len(messages) - 1 else Place.LATE
    return traits.takes_later(messages[index]["role"], place)


@cache
def _log_once() -> None:
    logger.warning("system messages that the chat template takes only in front are put there, as one; logged once")
