"""Token ids in, text out: submit a request, detokenise its tokens, find stop strings, abort at the end.

Dialects create a `Generation` and fold or stream its deltas; nothing here knows JSON or HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import msgspec

from container.errors import DeadlineExceeded, ServiceError, from_engine
from container.generation.engine_client import Reply
from container.generation.engine_pool import EnginePool
from container.generation.visible_text import VisibleText, spell_special
from container.text.detokenizer import IncrementalDetokenizer
from container.text.stop_strings import StopStrings
from container.text.tokenizer import Tokenizer
from handler.seam.protocol import FinishReason, GenerateRequest, SamplingParams, StepOutput, TokenLogprob

KEEPALIVE_S = 15.0
# Last prompt tokens shown to the detokeniser. Without them sentencepiece would drop the first space of the answer.
_TAIL = 8
# Seconds between checks of the client while tokens flow.
_CHECK_S = 0.1
# The engine checks deadlines between steps. After this grace the web side ends the request: the step may be long, or
# the engine may have lost the request.
_DEADLINE_GRACE_S = 0.05
# Reasons whose token may be none of the text.
_TEXT_ENDS = (FinishReason.EOS, FinishReason.STOP_TOKEN)


class ClientDisconnected(Exception):
    """The client closed its connection."""


class Token(msgspec.Struct, frozen=True, gc=False):
    """One generated token. `text` is what it adds, special tokens included; "" while a character is incomplete.

    The client's text leaves a `hidden` token out.
    """

    id: int
    text: str
    special: bool
    logprob: TokenLogprob | None
    hidden: bool = False


class Delta(msgspec.Struct, frozen=True, gc=False):
    """New text and tokens; the last delta has a `finish_reason`. Of several tokens, `pieces` are the text of each."""

    text: str
    tokens: list[Token]
    finish_reason: FinishReason | None = None
    pieces: Sequence[str] = ()

    def singles(self) -> Iterator[Delta]:
        """The same token by token."""
        if len(self.tokens) < 2:
            yield self
            return
        last = len(self.tokens) - 1
        for i, (piece, token) in enumerate(zip(self.pieces, self.tokens, strict=True)):
            yield Delta(piece, [token], self.finish_reason if i == last else None)


@dataclass(slots=True)
class Timings:
    """Times of one generation in seconds, filled in as they become known.

    `submitted_s`, `first_token_at_s` and `last_token_at_s` are moments on `time.monotonic`: sent to the engine, first
    and last token received.
    `queue_s` is time in the engine's queue, `inference_s` time in the model, `prefill_s` the part of it before the
    first token.
    """

    submitted_s: float | None = None
    first_token_at_s: float | None = None
    last_token_at_s: float = 0.0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    inference_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """The prompt and options of one choice of one request.

    `keep_stop` keeps the stop string that ends the text (TGI). `show_tokens` produces the text of each token.
    `marks` gives the text that stands for a control token, by its id. `show_special` keeps control tokens in the text
    for the readers, `special_is_text` for the client, and `keep_end` also the token that ends the text. `join_special`
    is as in `IncrementalDetokenizer`, negated. `cache_salt`, `reuse_prefix` and `adapter` are as in
    `GenerateRequest`.
    """

    token_ids: list[int]
    sampling: SamplingParams
    stop: tuple[str, ...] = ()
    keep_stop: bool = False
    show_tokens: bool = False
    show_special: bool = False
    special_is_text: bool = False
    keep_end: bool = False
    join_special: bool = False
    marks: Mapping[int, str] = field(default_factory=dict)
    timeout_s: float = 55.0
    cache_salt: str = ""
    reuse_prefix: bool = True
    adapter: str | None = None

    def with_sampling(self, sampling: SamplingParams) -> Prompt:
        """The same prompt with other sampling parameters."""
        return replace(self, sampling=sampling)


class Observer(Protocol):
    """Receives events of generations, for metrics."""

    def gap(self, seconds: float) -> None:
        """Time from one token to the next: 0 between those of one message."""

    def end(self, generation: Generation, failure: str | None) -> None:
        """Called once. `failure` is None for a finished answer, else `ServiceError.outcome` or "dropped"."""


class Generation:
    """One choice being generated. Iterate `deltas()`; leaving the iteration early aborts it in the engine."""

    def __init__(
        self,
        engines: EnginePool,
        tokenizer: Tokenizer,
        prompt: Prompt,
        connected: Callable[[], bool],
        observer: Observer,
        request_id: str,
        eos_token_ids: Collection[int] = (),
    ) -> None:
        """`request_id` is the engine's key: unique, never chosen by a client."""
        self.prompt = prompt
        self.request_id = request_id
        self.finish_reason: FinishReason | None = None
        self.timed_out = False
        self.timings = Timings()
        self.num_tokens = 0
        self.num_prompt_tokens = len(prompt.token_ids)
        self.num_cached_tokens = 0
        self.prompt_logprobs: list[TokenLogprob] | None = None
        self._engines = engines
        self._connected = connected
        self._observer = observer
        self._tokenizer = tokenizer
        # These end the text without being part of it. A completed grammar ends with a token that is part of it.
        self._end_token_ids = {*eos_token_ids, *prompt.sampling.stop_token_ids}
        tail = prompt.token_ids[-_TAIL:]
        shows_special = prompt.show_special or prompt.special_is_text
        self._text = IncrementalDetokenizer(
            tokenizer,
            tail,
            skip_special_tokens=not shows_special,
            spaces_between_special_tokens=not prompt.join_special,
        )
        self._raw = IncrementalDetokenizer(tokenizer, tail, skip_special_tokens=False) if prompt.show_tokens else None
        self._stop = StopStrings(prompt.stop, keep=prompt.keep_stop)
        marked = bool(prompt.marks) or (not shows_special and spell_special(prompt.stop, tokenizer))
        self._visible = (
            VisibleText(
                tokenizer,
                tail,
                self._stop,
                prompt.marks,
                show_special=shows_special,
                join_special=prompt.join_special,
            )
            if marked
            else None
        )

    @property
    def stop_string(self) -> str | None:
        """The stop string that has ended the text."""
        return self._stop.matched

    def deltas(self) -> Iterator[Delta | None]:
        """Yield the answer piece by piece, and None after each `KEEPALIVE_S` of silence.

        An answer whose time runs out after its first token ends there, with reason LENGTH. Raises ServiceError if the
        engine rejects or fails the request, ClientDisconnected if the client has gone.
        """
        request = GenerateRequest(
            self.request_id,
            self.prompt.token_ids,
            self.prompt.sampling,
            self.prompt.timeout_s,
            self.prompt.cache_salt,
            self.prompt.reuse_prefix,
            self.prompt.adapter,
        )
        self.timings.submitted_s = time.monotonic()
        reply = self._engines.submit(request)
        failure: str | None = "dropped"
        try:
            for output in self._outputs(reply):
                if output is None:
                    yield None
                    continue
                delta = self._take(output)
                self.finish_reason = delta.finish_reason
                if delta.finish_reason is not None:
                    failure = None
                yield delta
                if delta.finish_reason is not None:
                    return
        except DeadlineExceeded as exc:
            failure = None if self.num_tokens else exc.outcome
            if not self.num_tokens:
                raise
            yield self.cut()
        except ServiceError as exc:
            failure = exc.outcome
            raise
        finally:
            reply.close()
            self._observer.end(self, failure)

    @property
    def prompt_scores(self) -> list[TokenLogprob]:
        """The log-probabilities of the prompt's tokens after the first, which were asked for.

        Raises DeadlineExceeded if the time ran out before they came: fewer than all would be summed up all the same.
        """
        if self.prompt_logprobs is None:
            raise DeadlineExceeded("the request's time was used up before all its prompts were scored")
        return self.prompt_logprobs

    def forget_prompt(self) -> None:
        """Free the prompt's tokens once the answer is over; their number stays."""
        self.prompt = replace(self.prompt, token_ids=[])

    def cut(self) -> Delta:
        """The last delta of an answer that the time limit ends: the text held back so far."""
        self.timed_out = True
        text, self.finish_reason = self._rest(FinishReason.LENGTH)
        return Delta(text, [], self.finish_reason)

    def _outputs(self, reply: Reply) -> Iterator[StepOutput | None]:
        """Yield the engine's outputs, and None after each `KEEPALIVE_S` of silence. Raises as `deltas` does."""
        silent_since = check_due = time.monotonic()
        deadline = silent_since + self.prompt.timeout_s + _DEADLINE_GRACE_S
        for message in reply.messages():
            now = time.monotonic()
            if message is None or reply.finished or now >= check_due:
                check_due = now + _CHECK_S
                if not self._connected():
                    raise ClientDisconnected
            if isinstance(message, StepOutput):
                silent_since = now
                yield message
            elif message is not None:
                raise from_engine(message)
            if now >= deadline:
                raise DeadlineExceeded("the request's time was used up before it finished")
            if now - silent_since >= KEEPALIVE_S:
                silent_since = now
                yield None

    def _take(self, output: StepOutput) -> Delta:
        """Turn the tokens of a message into text, up to a stop string."""
        now_s = time.monotonic()
        if self.timings.first_token_at_s is None:
            self.timings.first_token_at_s = now_s
            self.timings.prefill_s = output.inference_time_s
            self.num_cached_tokens = output.num_cached_tokens
        else:
            self._observer.gap(now_s - self.timings.last_token_at_s)
        self.timings.last_token_at_s = now_s
        if output.prompt_logprobs is not None:
            self.prompt_logprobs = output.prompt_logprobs
        self.timings.queue_s = output.queue_time_s
        self.timings.inference_s = output.inference_time_s
        reason, token_ids, logprobs = output.finish_reason, output.token_ids, output.logprobs
        ends = reason in _TEXT_ENDS and bool(token_ids) and token_ids[-1] in self._end_token_ids
        outside = len(token_ids) - 1 if ends and not self.prompt.keep_end else -1
        pieces: list[str] = []
        tokens: list[Token] = []
        for i, token_id in enumerate(token_ids):
            self.num_tokens += 1
            if i:
                self._observer.gap(0.0)
            tokens.append(self._token(token_id, logprobs[i] if logprobs else None, i == outside))
            pieces.append(self._push(token_id) if i != outside else "")
            if self._stop.matched is not None:
                return Delta("".join(pieces), tokens, FinishReason.STOP_STRING, pieces)
        if reason is not None:
            rest, reason = self._rest(reason)
            pieces[-1:] = [(pieces[-1] if pieces else "") + rest]
        return Delta("".join(pieces), tokens, reason, pieces)

    def _rest(self, reason: FinishReason) -> tuple[str, FinishReason]:
        """The text held back, and why the answer ends: a stop string found in it comes before `reason`."""
        text = self._finish()
        return text, reason if self._stop.matched is None else FinishReason.STOP_STRING

    def _push(self, token_id: int) -> str:
        return self._stop.push(self._text.push([token_id])) if self._visible is None else self._visible.push(token_id)

    def _finish(self) -> str:
        if self._visible is not None:
            return self._visible.finish()
        return self._stop.push(self._text.finish()) + self._stop.flush()

    def _token(self, token_id: int, logprob: TokenLogprob | None, outside: bool) -> Token:
        text = "" if self._raw is None else self._raw.push([token_id])
        special = self._tokenizer.is_special(token_id)
        return Token(token_id, text, special, logprob, special and (outside or not self.prompt.special_is_text))
