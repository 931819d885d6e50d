"""`thinking_token_budget` (vLLM): after so many tokens of thought the marks that end it are forced."""

from __future__ import annotations

from collections.abc import Sequence

from container.api.openai.reasoning import CLOSE, OPEN
from container.errors import InvalidRequest
from container.text.tokenizer import Tokenizer
from handler.seam.protocol import ThinkingLimit

_FIELD = "thinking_token_budget"
_UNLIMITED = -1


def thinking_limit(
    budget: int | None, prompt: Sequence[int], tokenizer: Tokenizer, *, thinks: bool
) -> ThinkingLimit | None:
    """What the engine is told; None without a budget.

    The prompt's tokens say whether it has begun the thought. Raises InvalidRequest for a model that does not think, or
    whose marks are not tokens.
    """
    if budget is None or budget == _UNLIMITED:
        return None
    if not thinks:
        raise InvalidRequest(f"`{_FIELD}` needs a model that thinks; this one does not", param=_FIELD)
    opening, closing = tokenizer.marker_token_id(OPEN), tokenizer.marker_token_id(CLOSE)
    if opening is None or closing is None:
        raise InvalidRequest(f"`{_FIELD}` needs a model whose {OPEN} and {CLOSE} are tokens", param=_FIELD)
    opened = _last(prompt, opening) > _last(prompt, closing)
    ending = tuple(tokenizer.encode_continuation(f"\n{CLOSE}\n\n"))
    return ThinkingLimit(budget, () if opened else (opening,), (closing,), ending)


def _last(token_ids: Sequence[int], token_id: int) -> int:
    """The last place of a token, -1 if there is none."""
    return next((i for i in range(len(token_ids) - 1, -1, -1) if token_ids[i] == token_id), -1)
