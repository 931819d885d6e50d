"""Fields of vLLM's and SGLang's clients on both of OpenAI's generating routes: their types, ranges and checks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from container.api.bounds import shown, within
from container.api.openai.structured_outputs import ConstraintFields
from container.api.validation import check
from container.errors import InvalidRequest

_MAX_INT = 2**63 - 1
_MAX_TOKEN_ID = 2**31 - 1
# vLLM's default limit.
_MAX_PROMPT_LOGPROBS = 20
_TokenId = Annotated[int, shown(minimum=0, maximum=_MAX_TOKEN_ID)]
_NOT_ZERO: dict[str, Any] = {"not": {"const": 0}}
_Count = within(-1, _MAX_INT, **_NOT_ZERO)
# A rule between fields, which types cannot express; for the OpenAPI document.
PROMPT_LOGPROBS_RULE = {
    "anyOf": [
        {"properties": {"stream": {"enum": [False, None]}}},
        {"properties": {"prompt_logprobs": {"enum": [0, None]}}},
    ]
}


class ExtensionFields(ConstraintFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What vLLM and SGLang add to OpenAI's fields. None counts as absent.

    `no_stop_trim` is SGLang's name of `include_stop_str_in_output`. All requests have one `priority`.
    """

    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    no_stop_trim: bool | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: Annotated[int | None, _Count] = None
    truncation_side: Literal["left", "right"] | None = None
    allowed_token_ids: Annotated[list[_TokenId] | None, shown(minItems=1)] = None
    prompt_logprobs: Annotated[int | None, within(0, _MAX_PROMPT_LOGPROBS)] = None
    thinking_token_budget: Annotated[int | None, within(-1, _MAX_INT)] = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    priority: Annotated[int | None, within(-_MAX_INT - 1, _MAX_INT)] = None
    request_id: Annotated[str | None, shown(minLength=1, maxLength=256)] = None

    @property
    def keeps_stop(self) -> bool:
        """Whether the text ends with what ended it: the stop string or token."""
        return bool(self.include_stop_str_in_output or self.no_stop_trim)

    @property
    def shows_special(self) -> bool:
        """Whether the text has control tokens."""
        return self.skip_special_tokens is False


def check_extensions(request: ExtensionFields) -> None:
    """Raise InvalidRequest naming field, limit and value; ranges of numbers are `check_bounds`'s."""
    ids = request.allowed_token_ids
    check("allowed_token_ids", "token ids, at least one", ids, ids is None or bool(ids))
    lowest, highest = min(ids or [0]), max(ids or [0])
    check("allowed_token_ids", "token ids", lowest, lowest >= 0)
    check("allowed_token_ids", "token ids", highest, highest <= _MAX_TOKEN_ID)
    check("truncate_prompt_tokens", "-1 or at least 1", 0, request.truncate_prompt_tokens != 0)
    name = request.request_id
    check("request_id", "1 to 256 characters", name, name is None or 0 < len(name) <= 256)
    if request.prompt_logprobs and getattr(request, "stream", None):
        raise InvalidRequest("`prompt_logprobs` above 0 is not available in a stream", param="prompt_logprobs")


def truncated(token_ids: list[int], request: ExtensionFields, room: int) -> list[int]:
    """The tokens that `truncate_prompt_tokens` keeps; `room` is the longest prompt. Raises InvalidRequest."""
    limit = request.truncate_prompt_tokens
    if limit is None:
        return token_ids
    check("truncate_prompt_tokens", f"at most {room}, the longest prompt beside the answer", limit, limit <= room)
    count = room if limit < 0 else limit
    return token_ids[:count] if request.truncation_side == "right" else token_ids[-count:]
