"""`thinking_token_budget` (vLLM): after so many tokens of thought the marks that end it are forced."""

from __future__ import annotations

from collections.abc import Sequence

from container.api.openai.thought_forms import ThoughtForm
from container.errors import InvalidRequest
from container.text.tokenizer import Tokenizer
from handler.seam.protocol import ThinkingLimit

_FIELD = "thinking_token_budget"
_UNLIMITED = -1


def thinking_limit(
    budget: int | None,
    prompt: Sequence[int],
    tokenizer: Tokenizer,
    *,
    forms: Sequence[ThoughtForm],
    begun: bool | None = None,
    field: str = _FIELD,
) -> ThinkingLimit | None:
    """What the engine is told; None without a budget.

    `begun`: the prompt has begun the thought. None: its tokens say so, which in a chat may be a message's own words.
    `field` is where the request has the budget. Raises InvalidRequest for a model that does not think, or whose marks
    are not tokens.
    """
    if budget is None or budget == _UNLIMITED:
        return None
    if not forms:
        raise InvalidRequest(f"`{field}` needs a model that thinks between marks; this one does not", param=field)
    for form in forms:
        opening, closing = (_ids(marks, tokenizer) for marks in (form.openings, form.closings))
        if opening and closing:
            in_prompt = max(_last(prompt, each) for each in opening) > max(_last(prompt, each) for each in closing)
            ending = tuple(tokenizer.encode_continuation(form.ending or form.closings[0]))
            return ThinkingLimit(budget, () if (in_prompt if begun is None else begun) else opening, closing, ending)
    raise InvalidRequest(f"`{field}` needs a model whose marks of a thought are tokens", param=field)


def _ids(marks: Sequence[str], tokenizer: Tokenizer) -> tuple[int, ...]:
    return tuple(token_id for mark in marks if (token_id := tokenizer.marker_token_id(mark)) is not None)


def _last(token_ids: Sequence[int], token_id: int) -> int:
    """The last place of a token, -1 if there is none."""
    return next((i for i in range(len(token_ids) - 1, -1, -1) if token_ids[i] == token_id), -1)
