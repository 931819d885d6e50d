from typing import Literal

import task
from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, NativeOutput, ToolOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider


class Capital(BaseModel):
    """The capital of a country."""

    capital: Literal["Berlin", "Paris"]
    is_in_europe: bool


def model(url: str) -> OpenAIChatModel:
    return OpenAIChatModel("m", provider=OpenAIProvider(base_url=f"{url}/v1", api_key=task.KEY))


def responding(url: str) -> OpenAIResponsesModel:
    return OpenAIResponsesModel("m", provider=OpenAIProvider(base_url=f"{url}/v1", api_key=task.KEY))


def claude(url: str) -> AnthropicModel:
    return AnthropicModel("claude-m", provider=AnthropicProvider(base_url=url, api_key=task.KEY))


greedy = {"temperature": task.TEMPERATURE, "max_tokens": task.MAX_TOKENS}
agent = Agent(model(task.URL), system_prompt=task.SYSTEM, model_settings=greedy)
whole = agent.run_sync(task.QUESTION)
stream = agent.run_stream_sync(task.QUESTION)
pieces = list(stream.stream_text(delta=True, debounce_by=None))
native = Agent(model(task.URL), output_type=NativeOutput(Capital), model_settings={"temperature": task.TEMPERATURE})
by_call = Agent(model(task.URL), output_type=ToolOutput(Capital), model_settings={"temperature": task.TEMPERATURE})
final = Agent(model(task.SCRIPTED), tools=[task.weather]).run_sync(task.WEATHER_QUESTION)
tools = [task.weather, task.clock]
found = {}
for name, door in (("responses", responding), ("messages", claude)):
    # Its Anthropic client has no argument for the temperature.
    settings = {"max_tokens": task.MAX_TOKENS, "extra_body": {"temperature": task.TEMPERATURE}}
    speaker = Agent(door(task.URL), system_prompt=task.SYSTEM, model_settings=settings)
    formed = Agent(door(task.URL), output_type=ToolOutput(Capital), model_settings=settings | {"max_tokens": 99})
    asked = speaker.run_sync(task.QUESTION)
    found |= {
        name: asked.output,
        f"usage_of_{name}": asked.usage.output_tokens,
        f"stream_of_{name}": list(speaker.run_stream_sync(task.QUESTION).stream_text(delta=True, debounce_by=None)),
        f"structured_by_{name}": formed.run_sync(task.CAPITAL_QUESTION).output.model_dump(),
        f"tools_by_{name}": Agent(door(task.SCRIPTED), tools=tools).run_sync(task.WEATHER_QUESTION).output,
    }

try:
    agent.run_sync(task.QUESTION, model_settings={"temperature": -1})
except ModelHTTPError as refused:
    error = f"{refused.status_code} {refused.body}"

task.report(
    chat=whole.output,
    usage=whole.usage.output_tokens,
    stream=pieces,
    stream_usage=stream.usage.output_tokens,
    structured=native.run_sync(task.CAPITAL_QUESTION).output.model_dump(),
    structured_by_call=by_call.run_sync(task.CAPITAL_QUESTION).output.model_dump(),
    tools=final.output,
    **found,
    error=error,
)
