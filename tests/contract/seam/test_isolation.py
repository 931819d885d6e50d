"""Many at once: everybody gets what is theirs and nothing else."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec

from handler.seam.protocol import FinishReason, GenerateRequest, StepOutput, encode
from tests.contract.seam.web import CHAT, WebServer, events
from tests.fakes.engine import Act, FakeEngine, output


def prompt_of(engine: FakeEngine, request: GenerateRequest) -> str:
    return str(engine.tokenizer.decode(request.prompt_token_ids))


def test_a_hundred_streams_with_one_client_id_get_their_own_tokens(web: WebServer, engine: FakeEngine) -> None:
    """Frames for requests that are over, or never were, come in between by the thousand."""
    over: list[str] = ["f" * 32]

    def echo(request: GenerateRequest) -> Iterator[Act]:
        *others, last = request.prompt_token_ids
        for token_id in others:
            yield output(request, [token_id])
            yield encode([StepOutput(random.choice(over), engine.token_ids("STRAY"))])
        yield output(request, [last], FinishReason.LENGTH)
        over.append(request.request_id)

    engine.script = echo

    def ask(i: int) -> str:
        body = {"inputs": f"question {i} of a hundred", "parameters": {}}
        answer = web.post("/generate_stream", body, X_Request_Id="the-same")
        return str(json.loads(events(answer.body)[-1])["generated_text"])

    with ThreadPoolExecutor(100) as threads:
        found = list(threads.map(ask, range(100)))
    assert found == [f"question {i} of a hundred" for i in range(100)]
    assert len({request.request_id for request in engine.requests}) == 100


def test_several_requests_in_one_frame(web: WebServer, engine: FakeEngine) -> None:
    """An engine sends one frame a step to each worker, whoever it is for."""
    waiting: list[GenerateRequest] = []

    def together(request: GenerateRequest) -> Iterator[Act]:
        waiting.append(request)
        if len(waiting) == 2:
            for start, text, reason in ((0, "one", None), (4, "two", FinishReason.LENGTH)):
                outputs = [output(each, engine.token_ids(f"{text}{i}"), reason) for i, each in enumerate(waiting)]
                yield encode([msgspec.structs.replace(each, start=start) for each in outputs])

    engine.script = together
    choices = web.post("/v1/chat/completions", CHAT | {"n": 2, "temperature": 1}).json["choices"]
    assert sorted(choice["message"]["content"] for choice in choices) == ["one0two0", "one1two1"]
    assert [choice["index"] for choice in choices] == [0, 1]
