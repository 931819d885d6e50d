"""Constrained decoding through llguidance: a grammar per sequence, and the position in it.

Helper threads compile grammars and compute masks (llguidance releases the GIL), so neither a hostile grammar nor a slow
mask stalls the other sequences. The mask for the next token starts as soon as the last token is known, and is usually
ready before the forward pass ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from torch import Tensor

from handler.sampling.bitmask import Words, flags_of
from handler.sampling.grammar_fault import sentence, subject
from handler.sampling.grammar_tokenizer import grammar_tokenizer
from handler.seam.errors import one_line
from handler.seam.protocol import JSON_WHITESPACE, Grammar, GrammarKind

logger = logging.getLogger(__name__)
R = TypeVar("R")

# Bounds against hostile grammars; far above any schema that a prompt can explain to a model.
_MAX_SOURCE_BYTES = 65_536
_MAX_GRAMMAR_ITEMS = 2_000
_MAX_LEXER_STATES = 50_000
_JSON_LAYOUT: Any = {"whitespace_pattern": JSON_WHITESPACE}


class GrammarError(Exception):
    """The grammar cannot be used. The message is one sentence that clients may see."""


def _guarded(failure: str, function: Callable[[], R]) -> R:
    """Call into llguidance and turn its exceptions, and panics of its Rust code, into GrammarError.

    pyo3's PanicException derives from BaseException and has no importable name.
    """
    try:
        return function()
    except GrammarError:
        raise
    except BaseException as exc:
        if isinstance(exc, Exception) or type(exc).__name__ == "PanicException":
            raise GrammarError(f"{failure}: {one_line(exc)}") from exc
        raise


class TokenConstraint:
    """One sequence's position in its grammar. Only the engine's thread uses it, except to compute the next mask."""

    def __init__(self, matcher: LLMatcher, vocab_size: int, threads: ThreadPoolExecutor) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._threads = threads
        self._mask: Future[tuple[Words, Tensor]] = threads.submit(self._next_mask)
        self._ahead: tuple[int, TokenConstraint] | None = None

    def mask(self) -> Tensor:
        """Bool `[vocab]` on CPU, True where the grammar allows a token. Raises GrammarError if computing it failed."""
        return self._mask.result()[1]

    def bits(self) -> Words:
        """The same as int32 words `[ceil(vocab / 32)]`. Raises GrammarError if computing it failed."""
        return self._mask.result()[0]

    def begins(self) -> bool:
        """True if the grammar allows any token now. Waits for the mask. Raises GrammarError if computing it failed."""
        return bool(self._mask.result()[1].any())

    def accept(self, token_id: int) -> bool:
        """Advance by one token; True if the text is complete and nothing may follow. Raises GrammarError."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == token_id:
            self._matcher, self._mask, self._ahead = ahead[1]._matcher, ahead[1]._mask, ahead[1]._ahead
            return False
        if not _guarded("the grammar cannot go on", lambda: self._matcher.consume_token(token_id)):
            raise GrammarError(f"the grammar cannot go on: {one_line(self._matcher.get_error())}")
        if self._matcher.is_stopped():
            return True
        self._mask = self._threads.submit(self._next_mask)
        return False

    def ahead(self, token_id: int) -> TokenConstraint | None:
        """The position after one more token, None if it or any token after it is forbidden. Waits for the mask.

        `accept` of the same token then takes its mask over. Raises GrammarError.
        """
        if not self._mask.result()[1][token_id]:
            return None
        matcher = self._matcher.deep_copy()
        if not _guarded("the grammar cannot go on", lambda: matcher.consume_token(token_id)) or matcher.is_stopped():
            return None
        later = TokenConstraint(matcher, self._vocab_size, self._threads)
        self._ahead = (token_id, later)
        return later

    def _next_mask(self) -> tuple[Words, Tensor]:
        return _guarded("the grammar cannot go on", self._compute)

    def _compute(self) -> tuple[Words, Tensor]:
        bits = allocate_token_bitmask(1, self._vocab_size)
        fill_next_token_bitmask(self._matcher, bits, 0)
        if self._matcher.is_error():
            raise GrammarError(f"the grammar cannot go on: {one_line(self._matcher.get_error())}")
        words: Words = bits[0]
        return words, flags_of(words, self._vocab_size)


class GrammarCompiler:
    """Makes `TokenConstraint`s for one tokenizer, which it reads at the first grammar, not at start-up."""

    def __init__(self, tokenizer_file: Path, vocab_size: int, eos_token_ids: Collection[int]) -> None:
        """Any of `eos_token_ids` may end a complete text; chat models use another one than base models."""
        self._tokenizer_file = tokenizer_file
        self._vocab_size = vocab_size
        self._eos_token_ids = sorted(eos_token_ids)
        self._tokenizer: LLTokenizer | None = None
        # A single compiler thread, so that a flood of grammars does not take the processor from the steps.
        self._compilers = ThreadPoolExecutor(1, thread_name_prefix="grammar")
        self._masks = ThreadPoolExecutor(2, thread_name_prefix="mask")

    def submit(
        self, grammar: Grammar, compiling: Callable[[bool], None] = lambda _begins: None
    ) -> Future[TokenConstraint]:
        """Compile on a helper thread, which calls `compiling` with True before and False after.

        The future raises GrammarError.
        """

        def compile_it() -> TokenConstraint:
            compiling(True)
            try:
                return _guarded(f"{subject(grammar)} is not valid", lambda: self._compile(grammar))
            finally:
                compiling(False)

        return self._compilers.submit(compile_it)

    def _compile(self, grammar: Grammar) -> TokenConstraint:
        if not self._eos_token_ids:
            raise GrammarError("grammars need a model that has an end-of-sequence token")
        if len(grammar.source.encode()) > _MAX_SOURCE_BYTES:
            raise GrammarError(
                f"{subject(grammar)} must be at most {_MAX_SOURCE_BYTES} bytes. Given: {len(grammar.source)}"
            )
        if self._tokenizer is None:
            self._tokenizer = grammar_tokenizer(self._tokenizer_file, self._vocab_size, self._eos_token_ids)
        limits = LLParserLimits(max_grammar_size=_MAX_GRAMMAR_ITEMS * 100, max_lexer_states=_MAX_LEXER_STATES)
        matcher = LLMatcher(self._tokenizer, _source(grammar), limits=limits)
        if matcher.is_error():
            raise GrammarError(sentence(grammar, matcher.get_error()))
        constraint = TokenConstraint(matcher, self._vocab_size, self._masks)
        _check_begins(constraint, subject(grammar))
        return constraint


def _check_begins(constraint: TokenConstraint, noun: str) -> None:
    """Raises GrammarError if no text fits: the matcher finds out at its first mask, and tells its own state."""
    try:
        begins = constraint.begins()
    except GrammarError as exc:
        raise GrammarError(f"{noun} is not valid: no text fits it, or it needs too much work") from exc
    if not begins:
        raise GrammarError(f"{noun} is not valid: no text fits it")


def _source(grammar: Grammar) -> str:
    """The grammar in llguidance's own format."""
    if grammar.kind is GrammarKind.JSON_SCHEMA:
        return str(LLMatcher.grammar_from_json_schema(grammar.source, overrides=_JSON_LAYOUT))
    if grammar.kind is GrammarKind.REGEX:
        return str(LLMatcher.grammar_from_regex(grammar.source))
    return str(LLMatcher.grammar_from_lark(grammar.source))
