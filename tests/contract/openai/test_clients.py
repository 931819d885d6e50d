"""The clients people use, against the web server: openai (sync, async, parse), huggingface_hub, LangChain."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import openai
import pytest
from huggingface_hub import InferenceClient
from pydantic import BaseModel

from tests.contract.openai.scripted import ScriptedServer
from tests.contract.openai.test_tools import CALL, TOOLS

MESSAGES: Any = [{"role": "user", "content": "hi"}]


class Step(BaseModel):
    explanation: str
    output: int


class Answer(BaseModel):
    steps: list[Step]
    final: str


ANSWER = Answer(steps=[Step(explanation="add", output=4)], final="four")


@pytest.fixture
def client(qwen: ScriptedServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{qwen.url}/v1", api_key="-", max_retries=0)


def test_openai_parses_a_pydantic_model(qwen: ScriptedServer, client: openai.OpenAI) -> None:
    qwen.engine.says(ANSWER.model_dump_json())
    found = client.chat.completions.parse(model="m", messages=MESSAGES, response_format=Answer)
    assert found.choices[0].message.parsed == ANSWER
    grammar = qwen.engine.requests[0].sampling.grammar
    assert grammar is not None
    assert json.loads(grammar.source)["$defs"]["Step"]["additionalProperties"] is False
    with client.chat.completions.stream(model="m", messages=MESSAGES, response_format=Answer) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == ANSWER


class weather(BaseModel):
    """Tells it."""

    city: str


def test_openai_tool_round_trip(qwen: ScriptedServer, client: openai.OpenAI) -> None:
    tool = openai.pydantic_function_tool(weather)
    qwen.engine.says(CALL)
    with client.chat.completions.stream(model="m", messages=MESSAGES, tools=[tool]) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls is not None
    assert message.tool_calls[0].function.parsed_arguments == weather(city="Paris")
    qwen.engine.says("Rain.")
    history = [*MESSAGES, message, {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}]
    found = client.chat.completions.create(model="m", messages=cast(Any, history), tools=[tool])
    assert found.choices[0].message.content == "Rain."
    assert "<tool_response>\nrain\n</tool_response>" in qwen.engine.prompt


def test_openai_completions_and_models(qwen: ScriptedServer, client: openai.OpenAI) -> None:
    qwen.engine.says("xyz")
    assert client.completions.create(model="m", prompt=["a", "b"], logprobs=1).choices[1].text == "xyz"
    stream = client.completions.create(model="m", prompt="a", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "xyz"
    assert [model.id for model in client.models.list()] == ["quick"]
    assert client.models.retrieve("quick").id == "quick"


def test_openai_errors(qwen: ScriptedServer, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="m", messages=MESSAGES, n=999)
    assert (refused.value.param, refused.value.type) == ("n", "invalid_request_error")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("none")


def test_openai_async_with_16_streams(qwen: ScriptedServer) -> None:
    qwen.engine.script = lambda request: qwen.engine.text(request.prompt_token_ids).split("<|im_end|>")[1][-40:]

    async def one(client: openai.AsyncOpenAI, word: str) -> str:
        messages: Any = [{"role": "user", "content": word * 40}]
        stream = await client.chat.completions.create(model="m", messages=messages, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{qwen.url}/v1", api_key="-", max_retries=0) as client:
            return await asyncio.gather(*(one(client, word) for word in "abcdefghijklmnop"))

    assert asyncio.run(all_of_them()) == [word * 40 for word in "abcdefghijklmnop"]


def test_a_stream_that_is_left_ends_all_its_choices(qwen: ScriptedServer, client: openai.OpenAI) -> None:
    qwen.engine.says("x" * 20_000)
    stream = client.chat.completions.create(model="m", messages=MESSAGES, stream=True, n=3)
    for _ in range(6):
        next(stream)
    stream.close()
    sent = {request.request_id for request in qwen.engine.requests}
    assert len(sent) == 3
    qwen.wait(lambda: set(qwen.engine.aborted) == sent)


def test_huggingface_hub(qwen: ScriptedServer) -> None:
    client = InferenceClient(base_url=qwen.url)
    qwen.engine.says(CALL)
    found = client.chat_completion(MESSAGES, tools=TOOLS, tool_choice="weather", tool_prompt="Use these.")
    (call,) = found.choices[0].message.tool_calls or []
    assert (call.function.name, json.loads(cast(Any, call.function.arguments))) == ("weather", {"city": "Paris"})
    qwen.engine.says(ANSWER.model_dump_json())
    schema = {"name": "n", "strict": True, "schema": Answer.model_json_schema()}
    response_format: Any = {"type": "json_schema", "json_schema": schema}
    found = client.chat_completion(MESSAGES, response_format=response_format, logprobs=True, top_logprobs=2)
    assert Answer.model_validate_json(found.choices[0].message.content or "") == ANSWER
    stream = client.chat_completion(MESSAGES, stream=True, stream_options=cast(Any, {"include_usage": True}))
    chunks = list(stream)
    assert chunks[-1].usage is not None
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == ANSWER.model_dump_json()


def test_langchain(qwen: ScriptedServer) -> None:
    from langchain_openai import ChatOpenAI, OpenAI

    model = ChatOpenAI(base_url=f"{qwen.url}/v1", api_key=cast(Any, "-"), model="m", max_retries=0)
    qwen.engine.says("Hello.")
    assert model.invoke("hi").content == "Hello."
    assert "".join(cast(str, chunk.content) for chunk in model.stream("hi")) == "Hello."
    qwen.engine.says(CALL)
    called = cast(Any, model.bind_tools([weather]).invoke("hi"))
    assert [(call["name"], call["args"]) for call in called.tool_calls] == [("weather", {"city": "Paris"})]
    qwen.engine.says(ANSWER.model_dump_json())
    assert model.with_structured_output(Answer).invoke("hi") == ANSWER
    qwen.engine.says("xyz")
    text = OpenAI(base_url=f"{qwen.url}/v1", api_key=cast(Any, "-"), model="m", max_retries=0)
    assert text.invoke("a") == "xyz"
