import asyncio
from typing import Literal

import openai
import task
from agents import (
    Agent,
    AsyncOpenAI,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai.types.shared import Reasoning
from pydantic import BaseModel


class Capital(BaseModel):
    """The capital of a country."""

    capital: Literal["Berlin", "Paris"]
    is_in_europe: bool


set_tracing_disabled(True)


def model(url: str) -> OpenAIChatCompletionsModel:
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key=task.KEY, max_retries=0)
    return OpenAIChatCompletionsModel("m", openai_client=client)


def responding(url: str) -> OpenAIResponsesModel:
    """The client's default model."""
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key=task.KEY, max_retries=0)
    return OpenAIResponsesModel("m", openai_client=client)


# Without `include_usage` the client asks for no usage in streams.
greedy = ModelSettings(temperature=task.TEMPERATURE, max_tokens=task.MAX_TOKENS, include_usage=True)
agent = Agent("helper", instructions=task.SYSTEM, model=model(task.URL), model_settings=greedy)
# What users of a newer model set.
verbose = ModelSettings(
    temperature=task.TEMPERATURE,
    max_tokens=task.MAX_TOKENS,
    verbosity="low",
    reasoning=Reasoning(effort="low"),
    store=False,
)


async def streamed() -> tuple[list[str], int]:
    run = Runner.run_streamed(agent, task.QUESTION)
    pieces = [
        event.data.delta
        async for event in run.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    return pieces, run.context_wrapper.usage.output_tokens


async def everything() -> dict[str, object]:
    whole = await Runner.run(agent, task.QUESTION)
    pieces, stream_usage = await streamed()
    capital = Agent("teacher", model=model(task.URL), output_type=Capital, model_settings=ModelSettings(temperature=0))
    assistant = Agent("assistant", model=model(task.SCRIPTED), tools=[function_tool(task.weather)])
    # An answer that `max_tokens` cuts is an error of this client.
    formed = Agent("f", model=responding(task.URL), output_type=Capital, model_settings=ModelSettings(temperature=0))
    both = Agent("b", model=responding(task.SCRIPTED), tools=[function_tool(task.weather), function_tool(task.clock)])
    run = Runner.run_streamed(both, task.WEATHER_QUESTION)
    async for _ in run.stream_events():
        pass
    try:
        await Runner.run(
            Agent("wrong", model=model(task.URL), model_settings=ModelSettings(temperature=-1)), task.QUESTION
        )
    except openai.BadRequestError as refused:
        error = str(refused)
    return {
        "chat": whole.final_output,
        "usage": whole.context_wrapper.usage.output_tokens,
        "stream": pieces,
        "stream_usage": stream_usage,
        "structured": (await Runner.run(capital, task.CAPITAL_QUESTION)).final_output.model_dump(),
        "tools": (await Runner.run(assistant, task.WEATHER_QUESTION)).final_output,
        "structured_by_responses": (await Runner.run(formed, task.CAPITAL_QUESTION)).final_output.model_dump(),
        "tools_by_responses": (await Runner.run(both, task.WEATHER_QUESTION)).final_output,
        "tools_by_streamed_responses": run.final_output,
        "error": error,
        "settings_of_newer_models": (
            await Runner.run(
                Agent("verbose", instructions=task.SYSTEM, model=model(task.URL), model_settings=verbose), task.QUESTION
            )
        ).final_output,
    }


task.report(**asyncio.run(everything()))
