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

    Roles are those that the template knows. The parts are separated by a blank line, as are questions that stood on
    both sides of one: templates that take system messages only in front may want turns in alternation.
    """
    num_leading = next((i for i, each in enumerate(messages) if each["role"] not in SYSTEM_ROLES), len(messages))
    lost = {i for i in range(1, len(messages)) if not _is_taken(messages, i, num_leading, traits)}
    if not lost or not traits.takes_system:
        return messages
    _log_once()
    moved = [messages[i] for i in sorted(lost)]
    rest = _without(messages, lost)
    if rest and rest[0]["role"] in SYSTEM_ROLES:
        moved.insert(0, rest.pop(0))
    return [{**moved[0], "content": "\n\n".join(filter(None, map(text_of, moved)))}, *rest]


def _without(messages: list[Message], lost: set[int]) -> list[Message]:
    runs: list[list[Message]] = []
    for i, message in enumerate(messages):
        if i in lost:
            continue
        if i - 1 in lost and runs and message["role"] == runs[-1][-1]["role"] == "user":
            runs[-1].append(message)
        else:
            runs.append([message])
    return [run[0] if len(run) == 1 else {**run[0], "content": "\n\n".join(map(text_of, run))} for run in runs]


def text_of(message: Message) -> str:
    """The text of a message, whose content is a text or a list of text parts."""
    content = message.get("content", "")
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _is_taken(messages: list[Message], index: int, num_leading: int, traits: TemplateTraits) -> bool:
    """Whether a message that is not the first stays where it is; `num_leading` are system messages in front."""
    role = messages[index]["role"]
    if role not in SYSTEM_ROLES:
        return True
    if index <= num_leading:
        return traits.takes_later(role, Place.SECOND)
    return traits.takes_later(role, Place.LAST if index == len(messages) - 1 else Place.LATE)


@cache
def _log_once() -> None:
    logger.warning("system messages that the chat template takes only in front are put there, as one; logged once")
