"""The clients people have, unmodified, against the real container with the bundled chat model."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import openai
import pytest
from botocore.config import Config
from huggingface_hub import InferenceClient

from tests.fakes.sagemaker_runtime import FakeSageMakerRuntime
from tests.support.server import Server

pytestmark = pytest.mark.bundled

SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
QUESTION = {"role": "user", "content": "What is deep learning?"}
MESSAGES: Any = [SYSTEM, QUESTION]
GREEDY: Any = {"temperature": 0, "max_tokens": 24}


@pytest.fixture(scope="module")
def client(chat_server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{chat_server.url}/v1", api_key="-", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def answer(client: openai.OpenAI) -> str:
    """The greedy answer that every door must give."""
    completion = client.chat.completions.create(model="tgi", messages=MESSAGES, **GREEDY)
    text = completion.choices[0].message.content
    assert text is not None
    return text


def test_it_speaks_english(answer: str) -> None:
    assert answer.startswith("Deep learning is a")
    assert "artificial intelligence" in answer or "machine learning" in answer


def test_openai_whole(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(model="tgi", messages=MESSAGES, **GREEDY)
    assert completion.object == "chat.completion"
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 24
    assert completion.usage.prompt_tokens > 20


def test_openai_stream(client: openai.OpenAI, answer: str) -> None:
    stream = client.chat.completions.create(
        model="tgi", messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **GREEDY
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == answer
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 24


def test_openai_stop_logprobs_seed(client: openai.OpenAI, answer: str) -> None:
    stopped = client.chat.completions.create(model="", messages=MESSAGES, stop=[" is"], **GREEDY)
    assert stopped.choices[0].message.content == answer.split(" is", maxsplit=1)[0]
    assert stopped.choices[0].finish_reason == "stop"
    scored = client.chat.completions.create(model="x", messages=MESSAGES, logprobs=True, top_logprobs=2, **GREEDY)
    assert scored.choices[0].logprobs is not None
    content = scored.choices[0].logprobs.content
    assert content is not None
    assert "".join(entry.token for entry in content) == answer
    assert all(len(entry.top_logprobs) == 2 and entry.logprob <= 0 for entry in content)
    twice = [
        client.chat.completions.create(model="x", messages=MESSAGES, seed=5, temperature=1, max_tokens=12)
        for _ in range(2)
    ]
    assert twice[0].choices[0].message.content == twice[1].choices[0].message.content


def test_openai_errors_are_typed(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature") as bad:
        client.chat.completions.create(model="x", messages=MESSAGES, temperature=-1)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as too_long:
        client.chat.completions.create(model="x", messages=[{"role": "user", "content": "word " * 9000}])
    assert too_long.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


def test_openai_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert client.models.retrieve(model.id).id == model.id


def test_huggingface_hub(chat_server: Server, answer: str) -> None:
    client = InferenceClient(base_url=chat_server.url, timeout=60)
    whole = client.chat_completion(MESSAGES, **GREEDY)
    assert whole.choices[0].message.content == answer
    pieces = client.chat_completion(MESSAGES, stream=True, **GREEDY)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in pieces if chunk.choices) == answer


def test_huggingface_hub_text_generation(chat_server: Server) -> None:
    client = InferenceClient(model=chat_server.url, timeout=60)
    prompt = "The capital of France is"
    text = client.text_generation(prompt, return_full_text=False, max_new_tokens=6)
    assert "Paris" in text
    details = client.text_generation(prompt, return_full_text=False, max_new_tokens=6, details=True)
    assert details.generated_text == text
    assert details.details is not None
    assert details.details.finish_reason == "length"
    assert len(details.details.tokens) == 6
    stream = list(client.text_generation(prompt, return_full_text=False, max_new_tokens=6, details=True, stream=True))
    assert "".join(event.token.text for event in stream) == text
    assert stream[-1].generated_text == text
    assert stream[-1].details is not None
    assert stream[-1].details.generated_tokens == 6


def test_curl(chat_server: Server, answer: str) -> None:
    body = json.dumps({"model": "tgi", "messages": MESSAGES, "stream": True, **GREEDY})
    command = ["curl", "-sN", f"{chat_server.url}/v1/chat/completions", "-X", "POST"]
    run = subprocess.run(
        [*command, "-H", "Content-Type: application/json", "-d", body], capture_output=True, text=True, check=True
    )
    events = [line.removeprefix("data: ") for line in run.stdout.splitlines() if line]
    assert events[-1] == "[DONE]"
    pieces = [json.loads(event)["choices"][0]["delta"].get("content", "") for event in events[:-1]]
    assert "".join(pieces) == answer
    assert run.stdout.endswith("\n\n")


@pytest.fixture(scope="module")
def sagemaker(chat_server: Server) -> Iterator[Any]:
    with FakeSageMakerRuntime(chat_server.url, cut_bytes=11) as runtime:
        yield boto3.client(
            "sagemaker-runtime",
            endpoint_url=runtime.url,
            region_name="us-east-1",
            aws_access_key_id="x",
            aws_secret_access_key="x",
            config=Config(retries={"max_attempts": 0}, read_timeout=70),
        )


def test_sagemaker_messages(sagemaker: Any, answer: str) -> None:
    reply = sagemaker.invoke_endpoint(
        EndpointName="e",
        ContentType="application/json",
        Body=json.dumps({"messages": MESSAGES, **GREEDY}),
        CustomAttributes="trace=7",
    )
    assert json.loads(reply["Body"].read())["choices"][0]["message"]["content"] == answer
    assert reply["CustomAttributes"] == "trace=7"


def test_sagemaker_inputs(sagemaker: Any) -> None:
    body = {"inputs": "The capital of France is", "parameters": {"max_new_tokens": 6, "return_full_text": False}}
    reply = sagemaker.invoke_endpoint(EndpointName="e", ContentType="application/json", Body=json.dumps(body))
    (found,) = json.loads(reply["Body"].read())
    assert "Paris" in found["generated_text"]


def read_stream(reply: Any) -> list[str]:
    raw = b"".join(event["PayloadPart"]["Bytes"] for event in reply["Body"])
    return [line.removeprefix("data: ") for line in raw.decode().split("\n\n") if line]


def test_sagemaker_streams(sagemaker: Any, answer: str) -> None:
    chat = json.dumps({"messages": MESSAGES, "stream": True, **GREEDY})
    events = read_stream(sagemaker.invoke_endpoint_with_response_stream(EndpointName="e", Body=chat))
    assert events[-1] == "[DONE]"
    assert "".join(json.loads(e)["choices"][0]["delta"].get("content", "") for e in events[:-1]) == answer
    body = {"inputs": "The capital of France is", "parameters": {"max_new_tokens": 6}, "stream": True}
    events = read_stream(sagemaker.invoke_endpoint_with_response_stream(EndpointName="e", Body=json.dumps(body)))
    assert [json.loads(event)["index"] for event in events] == [1, 2, 3, 4, 5, 6]
    assert json.loads(events[-1])["generated_text"].startswith("The capital of France is")


def test_sagemaker_errors_reach_the_caller(sagemaker: Any) -> None:
    with pytest.raises(sagemaker.exceptions.ModelError) as error:
        sagemaker.invoke_endpoint(EndpointName="e", ContentType="application/json", Body=b'{"messages": 3}')
    assert error.value.response["OriginalStatusCode"] == 400
    assert "messages" in error.value.response["OriginalMessage"]


@pytest.fixture(scope="module")
def stock_model() -> Any:
    """transformers' own model and tokenizer, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from container.settings import Settings
    from handler.model.gguf_model import bundled_gguf, converted

    cache_dir = Path(Settings.from_environ(os.environ).cache_dir)
    gguf = bundled_gguf()
    directory = converted(gguf, cache_dir, lambda *_: None)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(directory)


PROMPTS = ("Once upon a time", "def fibonacci(n):\n", "Numbers:  1 2  33\n 42 3.14")


def test_greedy_equals_transformers(stock_model: Any, tmp_path: Path) -> None:
    """With the weights of the reference, the bundled model through every layer gives what stock `generate` gives."""
    model, tokenizer = stock_model
    server = Server(tmp_path / "log", {"DTYPE": "float32", "HF_MODEL_QUANTIZE": "none"})
    try:
        server.wait_ready()
        for prompt in PROMPTS:
            ids = tokenizer(prompt, return_tensors="pt")
            out = model.generate(**ids, max_new_tokens=20, do_sample=False)
            expected = tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
            body = {"inputs": prompt, "parameters": {"max_new_tokens": 20}}
            assert server.request("POST", "/generate", body).json["generated_text"] == expected
        assert server.stop() == 0
    finally:
        server.kill()


def test_greedy_as_it_is_served_differs_at_near_ties_only(chat_server: Server, stock_model: Any) -> None:
    """In the served type, each token is one that the reference, given the same text, scores next to its best."""
    import torch

    model, tokenizer = stock_model
    for prompt in PROMPTS:
        body = {"inputs": prompt, "parameters": {"max_new_tokens": 20, "details": True}}
        tokens = [token["id"] for token in chat_server.request("POST", "/generate", body).json["details"]["tokens"]]
        ids = tokenizer(prompt)["input_ids"]
        with torch.inference_mode():
            logits = model(torch.tensor([ids + tokens])).logits[0, len(ids) - 1 : -1]
        chosen = logits.gather(1, torch.tensor(tokens)[:, None])[:, 0]
        assert float((logits.max(-1).values - chosen).max()) < 0.5
