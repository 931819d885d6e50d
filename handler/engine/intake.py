"""Intake of requests, between socket and scheduler: validation, and waiting for grammars to be compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import chain

from handler.sampling.grammar import GrammarCompiler, GrammarError, TokenConstraint
from handler.scheduling.scheduler import SchedulerLimits
from handler.scheduling.sequence import Sequence
from handler.seam.protocol import ErrorCode, GenerateRequest, Rejected


class Intake:
    """Validates requests and holds sequences whose grammar is being compiled."""

    def __init__(self, limits: SchedulerLimits, vocab_size: int, grammars: GrammarCompiler | None) -> None:
        self._limits = limits
        self._vocab_size = vocab_size
        self._grammars = grammars
        self._compiling: dict[str, tuple[Sequence, Future[TokenConstraint]]] = {}

    @property
    def pending(self) -> int:
        """Number of sequences whose grammar is being compiled."""
        return len(self._compiling)

    def refusal(self, request: GenerateRequest) -> Rejected | None:
        """Why the request is invalid, or None. The web side checks more; the engine does not rely on it."""
        ids = request.prompt_token_ids
        if not ids or len(ids) >= self._limits.max_model_len:
            return _invalid(
                request, f"prompt must have 1 to {self._limits.max_model_len - 1} tokens. Given: {len(ids)}"
            )
        if min(ids) < 0 or max(ids) >= self._vocab_size:
            return _invalid(request, f"prompt token ids must be in [0, {self._vocab_size})")
        wanted = request.sampling
        if not all(wanted.bad_words):
            return _invalid(request, "bad_words must have at least one token each")
        named = (
            *wanted.logit_bias,
            *wanted.stop_token_ids,
            *wanted.allowed_token_ids,
            *chain.from_iterable(wanted.bad_words),
        )
        if wanted.thinking is not None:
            named = (*named, *wanted.thinking.ending)
        if named and not 0 <= min(named) <= max(named) < self._vocab_size:
            fields = "logit_bias, stop_token_ids, allowed_token_ids, bad_words and the end of a thought"
            return _invalid(request, f"token ids of {fields} must be in [0, {self._vocab_size})")
        if request.sampling.grammar is not None and self._grammars is None:
            return _invalid(request, "grammar is not supported by this model's tokenizer")
        return None

    def needs_grammar(self, seq: Sequence, compiling: Callable[[bool], None]) -> bool:
        """Start compiling if `seq` has a grammar; `ready` then returns it later. `GrammarCompiler.submit` calls
        `compiling`.
        """
        grammar = seq.sampling.grammar
        if grammar is None or self._grammars is None:
            return False
        self._compiling[seq.request_id] = (seq, self._grammars.submit(grammar, compiling))
        return True

    def ready(self) -> Iterator[Sequence | Rejected]:
        """Sequences whose grammar is compiled, and rejections of those whose grammar is wrong."""
        for request_id, (seq, future) in list(self._compiling.items()):
            if not future.done():
                continue
            del self._compiling[request_id]
            try:
                seq.constraint = future.result()
            except GrammarError as exc:
                yield _invalid(seq.request, str(exc))
            else:
                yield seq

    def forget(self, seq: Sequence) -> None:
        """Drop a sequence that ended while its grammar was being compiled."""
        found = self._compiling.pop(seq.request_id, None)
        if found is not None:
            found[1].cancel()

    def waiting(self) -> list[Sequence]:
        """The sequences whose grammar is being compiled."""
        return [seq for seq, _ in self._compiling.values()]


def _invalid(request: GenerateRequest, message: str) -> Rejected:
    return Rejected(request.request_id, ErrorCode.INVALID, message)
