"""Answers whose reader is behind the engine: the outputs of several steps come as one, and say the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, cast

import gevent
import msgspec
import pytest

from container.api.openai.chat_request import parse_chat
from container.api.openai.chat_response import ChatAnswer
from container.api.openai.choice import Choice
from container.api.openai.completion_request import parse_completion
from container.api.openai.completions import CompletionAnswer
from container.api.tgi.answer_fold import AnswerFold
from container.api.tgi.generating import Generating
from container.api.tgi.request.parameters import GenerateParameters
from container.errors import NotReady
from container.generation.engine_client import Reply
from container.generation.engine_pool import EnginePool
from container.generation.generation import ClientDisconnected, Generation, Prompt
from container.generation.joined_outputs import MAX_JOINED_TOKENS
from container.serving.served_model import ServedModel
from container.settings import Settings
from container.text.tokenizer import Tokenizer
from handler.seam.protocol import (
    ErrorCode,
    Failed,
    FinishReason,
    FromEngine,
    GenerateRequest,
    ModelCard,
    SamplingParams,
    StepOutput,
    TokenLogprob,
)
from tests.fakes.engine import write_model

TEXT = "The éäß😀 sun, and a STOP word."
SETTINGS = Settings.from_environ({})
Frames = Callable[[Generation, ServedModel], Iterator[bytes]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    directory = tmp_path_factory.mktemp("model")
    write_model(directory / "model", directory / "card")
    card = msgspec.json.decode((directory / "card").read_bytes(), type=ModelCard)
    return ServedModel(card, Tokenizer.load(directory / "model"), None, card.max_model_len - 1)


class Engines:
    """Stands for the far side of the socket: the messages arrive before the answer is read, or one at each read."""

    def __init__(self, messages: list[FromEngine], *, behind: bool) -> None:
        self._messages = messages
        self._behind = behind
        self.num_closed = 0

    def submit(self, request: GenerateRequest) -> Reply:
        reply = Reply(request.request_id, self._close)
        if self._behind:
            assert all(reply.take(message) for message in self._messages)
        else:
            gevent.spawn(self._feed, reply)
        return reply

    def _feed(self, reply: Reply) -> None:
        for message in self._messages:
            reply.take(message)
            while not reply.inbox.empty():
                gevent.sleep(0)

    def _close(self, _reply: Reply) -> None:
        self.num_closed += 1


class Observer:
    def __init__(self) -> None:
        self.num_gaps = 0

    def gap(self, seconds: float) -> None:
        self.num_gaps += 1

    def end(self, generation: Generation, failure: str | None) -> None: ...


def outputs(served: ServedModel, text: str = TEXT, *, num_top: int | None = None) -> list[StepOutput]:
    """`text` one token, a byte as a rule, at a time, and the end token."""
    ids = [*served.tokenizer.encode(text, add_special_tokens=False), *served.card.eos_token_ids]
    top = tuple((i, -1.0 - i) for i in range(num_top or 0))
    return [
        StepOutput(
            "r", [token_id],
            logprobs=None if num_top is None else [TokenLogprob(-0.01 * i, top)],
            finish_reason=FinishReason.EOS if i == len(ids) - 1 else None,
            num_cached_tokens=3, queue_time_s=0.5, inference_time_s=float(i), start=i,
        )
        for i, token_id in enumerate(ids)
    ]  # fmt: skip


def generation_of(
    served: ServedModel,
    messages: list[FromEngine],
    *,
    behind: bool,
    num_top: int | None = None,
    observer: Observer | None = None,
    **options: Any,
) -> Generation:
    sampling = SamplingParams(1000, 0, 0.0, num_logprobs=num_top)
    prompt = Prompt(token_ids=[1, 2, 3], sampling=sampling, **options)
    engines = cast(EnginePool, Engines(messages, behind=behind))
    return Generation(
        engines, served.tokenizer, prompt, lambda: True, observer or Observer(), "r", served.card.eos_token_ids
    )  # fmt: skip


def chat(**fields: Any) -> Frames:
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": True, **fields}
    request = parse_chat(body, SETTINGS, 300)
    return lambda generation, served: ChatAnswer(
        request, served, [generation], [Choice(None, None)], "chatcmpl-1"
    ).frames()


def completion(**fields: Any) -> Frames:
    request = parse_completion({"prompt": "hi", "stream": True, "max_tokens": 1000, **fields}, SETTINGS, 300)
    return lambda generation, served: CompletionAnswer(request, served, [generation], "cmpl-1").frames()


def tgi(**fields: Any) -> Frames:
    parameters = msgspec.convert(fields, GenerateParameters)
    return lambda generation, served: Generating(parameters, [AnswerFold(generation, served.tokenizer, "")]).frames()


USAGE = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


def said(frames: list[bytes]) -> dict[str, Any]:
    """What OpenAI's chunks add up to; asserts that [DONE] comes once and last."""
    assert all(frame.startswith(b"data: ") and frame.endswith(b"\n\n") for frame in frames)
    assert [frame for frame in frames if b"[DONE]" in frame] == frames[-1:]
    chunks = [json.loads(frame.removeprefix(b"data: ")) for frame in frames[:-1]]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    scored = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    return {
        "text": "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices),
        "roles": [choice["delta"]["role"] for choice in choices if "role" in choice.get("delta", {})],
        "ids": [token_id for choice in choices for token_id in choice.get("token_ids", [])],
        "content": [entry for each in scored for entry in each.get("content", [])],
        "lists": {name: [entry for each in scored for entry in each.get(name, [])] for name in LISTS},
        "reasons": [choice["finish_reason"] for choice in choices if choice["finish_reason"]],
        "usage": chunks[-1].get("usage"),
        "grows": [chunk["usage"]["completion_tokens"] for chunk in chunks if chunk.get("usage")],
    }


@pytest.mark.parametrize(
    ("frames_of", "num_top", "options"),
    [
        pytest.param(chat(), None, {}, id="chat"),
        pytest.param(chat(**USAGE, return_token_ids=True), None, {}, id="chat, usage"),
        pytest.param(chat(logprobs=True, top_logprobs=2), 2, {}, id="chat, logprobs"),
        pytest.param(chat(), None, {"stop": ("STOP",)}, id="chat, stop string"),
        pytest.param(completion(), None, {}, id="completion"),
        pytest.param(completion(**USAGE, return_token_ids=True), None, {}, id="completion, usage"),
        pytest.param(completion(logprobs=2), 2, {}, id="completion, logprobs"),
        pytest.param(completion(), None, {"stop": ("word", "nowhere")}, id="completion, stop string"),
    ],
)
def test_chunks_of_a_reader_that_is_behind_add_up_to_the_same(
    served: ServedModel, frames_of: Frames, num_top: int | None, options: dict[str, Any]
) -> None:
    def read(*, behind: bool) -> tuple[list[bytes], Generation]:
        messages = cast(list[FromEngine], outputs(served, num_top=num_top))
        generation = generation_of(served, messages, behind=behind, num_top=num_top, **options)
        return list(frames_of(generation, served)), generation

    (late, joined), (timely, alone) = read(behind=True), read(behind=False)
    expected, found = said(timely), said(late)
    counts, expected_counts = found.pop("grows"), expected.pop("grows")
    assert found == expected
    assert counts == sorted(counts)
    assert counts[-1:] == expected_counts[-1:]
    assert len(late) < len(timely) / 2
    assert joined.num_tokens == alone.num_tokens
    assert joined.timings.prefill_s == alone.timings.prefill_s == 0.0
    assert joined.num_cached_tokens == 3
    assert joined.finish_reason is alone.finish_reason


@pytest.mark.parametrize("fields", [{"details": True}, {"top_n_tokens": 2}, {"stop": ["STOP"]}, {}])
def test_tgi_sends_an_event_for_each_token(served: ServedModel, fields: dict[str, Any]) -> None:
    def read(*, behind: bool) -> list[bytes]:
        messages = cast(list[FromEngine], outputs(served, num_top=fields.get("top_n_tokens", 0)))
        generation = generation_of(
            served, messages, behind=behind, num_top=fields.get("top_n_tokens", 0),
            stop=tuple(fields.get("stop", ())), keep_stop=True, show_tokens=True,
        )  # fmt: skip
        return list(tgi(**fields)(generation, served))

    late = read(behind=True)
    assert late == read(behind=False)
    assert [json.loads(frame[6:])["index"] for frame in late] == list(range(1, len(late) + 1))


@pytest.mark.parametrize("behind", [False, True])
def test_there_is_a_gap_between_any_two_tokens(served: ServedModel, behind: bool) -> None:
    observer = Observer()
    generation = generation_of(served, [*outputs(served)], behind=behind, observer=observer)
    list(generation.deltas())
    assert observer.num_gaps == generation.num_tokens - 1 > 10


def messages_of(messages: list[FromEngine]) -> list[FromEngine | None]:
    reply = Reply("r", lambda _reply: None)
    for message in messages:
        assert reply.take(message)
    return list(reply.messages())


def test_the_first_output_stays_alone(served: ServedModel) -> None:
    first, rest = messages_of([*outputs(served)])
    assert isinstance(first, StepOutput)
    assert isinstance(rest, StepOutput)
    assert (first.start, len(first.token_ids), rest.start) == (0, 1, 1)
    assert rest.token_ids == [token_id for each in outputs(served)[1:] for token_id in each.token_ids]
    assert rest.inference_time_s == len(rest.token_ids)
    assert rest.finish_reason is FinishReason.EOS


def test_a_long_backlog_comes_in_parts(served: ServedModel) -> None:
    found = messages_of([*outputs(served, "x" * 3 * MAX_JOINED_TOKENS)])
    sizes = [len(each.token_ids) for each in found if isinstance(each, StepOutput)]
    assert sizes == [1, MAX_JOINED_TOKENS, MAX_JOINED_TOKENS, MAX_JOINED_TOKENS]


def test_tokens_come_before_the_failure_that_follows_them(served: ServedModel) -> None:
    failed = Failed("r", ErrorCode.ENGINE_DEAD, "the engine stopped")
    messages: list[FromEngine] = [*outputs(served)[:5], failed]
    assert messages_of(messages)[-1] is failed
    generation = generation_of(served, messages, behind=True)
    with pytest.raises(NotReady):
        list(generation.deltas())
    assert generation.num_tokens == 5


def test_ticks_wake_only_a_reader_that_nothing_else_woke(served: ServedModel) -> None:
    reply = Reply("r", lambda _reply: None)
    reply.take(outputs(served)[0])
    reading = reply.messages()
    assert next(reading) is not None
    reply.tick()
    assert reply.inbox.empty()
    reply.tick()
    assert next(reading) is None


def test_no_answer_ends_well_for_a_client_that_left(served: ServedModel) -> None:
    """While tokens flow the client is looked for only now and then, but always before the end."""
    here = [True]
    engines = Engines([*outputs(served)], behind=False)
    prompt = Prompt(token_ids=[1], sampling=SamplingParams(1000, 0, 0.0))
    pool, eos = cast(EnginePool, engines), served.card.eos_token_ids
    generation = Generation(pool, served.tokenizer, prompt, lambda: here.pop() if here else False, Observer(), "r", eos)
    with pytest.raises(ClientDisconnected):
        list(generation.deltas())
    assert generation.num_tokens >= 1
    assert engines.num_closed == 1
