"""`Sequence`: one request inside the engine, with its tokens, counts and state. Pure Python."""

from __future__ import annotations

import copy
import enum
from dataclasses import dataclass, field
from typing import Any, Protocol

from handler.seam.protocol import FinishReason, GenerateRequest, SamplingParams, TokenLogprob


class SequenceStatus(enum.Enum):
    """State of a sequence. FINISHED is terminal, whatever the reason."""

    WAITING = enum.auto()
    RUNNING = enum.auto()
    FINISHED = enum.auto()


class Constraint(Protocol):
    """A grammar applied to one sequence (handler.sampling.grammar.TokenConstraint)."""

    def mask(self) -> Any:
        """Bool `[vocab]`, True where a token is allowed."""

    def bits(self) -> Any:
        """The same as int32 words, the lowest bit first."""

    def accept(self, token_id: int) -> bool:
        """Advance by one token; True if nothing may follow."""

    def ahead(self, token_id: int) -> Constraint | None:
        """The position after one more token, which stays its own; None if the token, or any after it, is forbidden."""


@dataclass(slots=True, eq=False)
class Sequence:
    """A prompt and the tokens generated after it.

    `token_ids` is prompt then output. Keys and values of `token_ids[:num_computed]` are in the cache; the others
    are still to be run. One new token is sampled each time `num_computed` reaches `len(token_ids)`. `slot` and
    `block_table` locate them in the cache; -1 and [] while the sequence holds no memory. `num_cached` counts prompt
    tokens taken from the prefix cache. A `suspect` was running when an engine died, and runs alone up to position
    `alone_until` (handler.seam.suspects). `fingerprint` is equal for all retries of the same request.
    `lookup` is the drafter's knowledge of the text.
    `adapter_slot` is where the runner has the request's adapter while the sequence runs; -1 for the base model.
    `registration` is the adapter's (handler.seam.adapter_list), "" for the base.
    The sampler keeps three things here: `forbidden`, the tokens outside `allowed_token_ids`, made once;
    `token_amounts` for penalties, and `table_rows`, their place on a GPU.
    """

    request: GenerateRequest
    worker: bytes
    arrival_s: float
    deadline_s: float
    token_ids: list[int] = field(init=False)
    status: SequenceStatus = SequenceStatus.WAITING
    num_computed: int = 0
    num_cached: int = 0
    slot: int = -1
    block_table: list[int] = field(default_factory=list)
    num_hashed_pages: int = 0
    finish_reason: FinishReason | None = None
    first_scheduled_s: float | None = None
    num_preemptions: int = 0
    constraint: Constraint | None = None
    forbidden: Any = None
    token_amounts: Any = None
    lookup: Any = None
    table_rows: Any = None
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    fingerprint: int = 0
    suspect: bool = False
    alone_until: int = 0
    adapter_slot: int = -1
    registration: str = ""

    def __post_init__(self) -> None:
        self.token_ids = list(self.request.prompt_token_ids)

    def ahead(self, draft: tuple[int, ...]) -> list[Sequence]:
        """The sequence as it will be after each token of `draft`, for the sampler alone: they share no state with it.

        Fewer where the grammar forbids a token or allows nothing after it.
        """
        found: list[Sequence] = []
        constraint = self.constraint
        for i, token_id in enumerate(draft, 1):
            if constraint is not None:
                constraint = constraint.ahead(token_id)
                if constraint is None:
                    break
            later = copy.copy(self)
            later.token_ids = [*self.token_ids, *draft[:i]]
            later.constraint = constraint
            later.token_amounts = None if self.token_amounts is None else self.token_amounts.copy()
            later.table_rows = None
            found.append(later)
        return found

    @property
    def request_id(self) -> str:
        """The id that the server gave the request."""
        return self.request.request_id

    @property
    def adapter(self) -> str | None:
        """The name of the adapter; None for the base model."""
        return self.request.adapter

    @property
    def prefix_salt(self) -> str:
        """What pages of this text must have in common, beside tokens, to be shared: adapter and tenant.

        A name registered again is another registration. No registration holds a line feed.
        """
        return f"{self.registration}\n{self.request.cache_salt}"

    @property
    def sampling(self) -> SamplingParams:
        """The request's sampling parameters."""
        return self.request.sampling

    @property
    def num_prompt_tokens(self) -> int:
        """Length of the prompt."""
        return len(self.request.prompt_token_ids)

    @property
    def num_output_tokens(self) -> int:
        """Tokens generated so far."""
        return len(self.token_ids) - len(self.request.prompt_token_ids)

    @property
    def scores_prompt(self) -> bool:
        """True if prompt log-probabilities are still to be returned, so that the whole prompt must be computed."""
        return self.sampling.num_prompt_logprobs is not None and self.num_output_tokens == 0

    @property
    def num_uncomputed(self) -> int:
        """Tokens that must go through the model before the next one can be sampled."""
        return len(self.token_ids) - self.num_computed
