from typing import Literal

import openai
import task
from haystack.components.generators.chat import OpenAIChatGenerator, OpenAIResponsesChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import create_tool_from_function
from haystack.utils import Secret
from pydantic import BaseModel


class Capital(BaseModel):
    """The capital of a country."""

    capital: Literal["Berlin", "Paris"]
    is_in_europe: bool


def generator(url: str, kind: type = OpenAIChatGenerator, **arguments: object) -> OpenAIChatGenerator:
    return kind(api_key=Secret.from_token(task.KEY), model="m", api_base_url=f"{url}/v1", max_retries=0, **arguments)


greedy = {"temperature": task.TEMPERATURE, "max_completion_tokens": task.MAX_TOKENS}
asked = [ChatMessage.from_system(task.SYSTEM), ChatMessage.from_user(task.QUESTION)]
(whole,) = generator(task.URL, generation_kwargs=greedy).run(asked)["replies"]
pieces = []
generator(task.URL, generation_kwargs=greedy, streaming_callback=lambda chunk: pieces.append(chunk.content)).run(asked)
(capital,) = generator(task.URL, generation_kwargs={"temperature": task.TEMPERATURE, "response_format": Capital}).run(
    [ChatMessage.from_user(task.CAPITAL_QUESTION)]
)["replies"]


def round_trip(kind: type = OpenAIChatGenerator) -> str:
    tool = create_tool_from_function(task.weather)
    history = [ChatMessage.from_user(task.WEATHER_QUESTION)]
    agent = generator(task.SCRIPTED, kind, tools=[tool])
    history += agent.run(history)["replies"]
    for call in history[-1].tool_calls:
        history.append(ChatMessage.from_tool(tool.invoke(**call.arguments), origin=call))
    (final,) = agent.run(history)["replies"]
    return final.text


door, few = OpenAIResponsesChatGenerator, {"temperature": task.TEMPERATURE, "max_output_tokens": task.MAX_TOKENS}
(response,) = generator(task.URL, door, generation_kwargs=few).run(asked)["replies"]
parts = []
streamed = generator(
    task.URL, door, generation_kwargs=few, streaming_callback=lambda chunk: parts.append(chunk.content)
)
streamed.run(asked)
(by_format,) = generator(
    task.URL, door, generation_kwargs={"temperature": task.TEMPERATURE, "text_format": Capital}
).run([ChatMessage.from_user(task.CAPITAL_QUESTION)])["replies"]

try:
    generator(task.URL, generation_kwargs={"temperature": -1}).run(asked)
except openai.BadRequestError as refused:
    error = str(refused)

task.report(
    chat=whole.text,
    usage=whole.meta["usage"]["completion_tokens"],
    stream=pieces,
    structured=Capital.model_validate_json(capital.text).model_dump(),
    tools=round_trip(),
    responses=response.text,
    usage_of_responses=response.meta["usage"]["output_tokens"],
    stream_of_responses=parts,
    structured_by_responses=Capital.model_validate_json(by_format.text).model_dump(),
    tools_by_responses=round_trip(door),
    error=error,
)
