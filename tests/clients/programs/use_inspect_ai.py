import asyncio
import json
from typing import Literal

import task
from inspect_ai.model import (
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    ResponseSchema,
    get_model,
)
from inspect_ai.tool import tool
from inspect_ai.util import json_schema
from pydantic import BaseModel


class Capital(BaseModel):
    capital: Literal["Berlin", "Paris"]
    is_in_europe: bool


@tool
def weather():
    async def execute(city: str) -> str:
        """Tell the weather in a city.

        Args:
            city: The city's name.
        """
        return task.weather(city)

    return execute


async def everything() -> dict[str, object]:
    asked = [ChatMessageSystem(content=task.SYSTEM), ChatMessageUser(content=task.QUESTION)]
    greedy = GenerateConfig(temperature=task.TEMPERATURE, max_tokens=task.MAX_TOKENS, max_retries=0)
    model = get_model("openai-api/heir/m", base_url=f"{task.URL}/v1", api_key=task.KEY)
    vllm = get_model("vllm/m", base_url=f"{task.URL}/v1", api_key=task.KEY)
    whole = await model.generate(asked, config=greedy)
    scored = await model.generate(asked, config=greedy.merge(GenerateConfig(logprobs=True, top_logprobs=2)))
    schema = GenerateConfig(
        temperature=task.TEMPERATURE,
        response_schema=ResponseSchema(name="capital", json_schema=json_schema(Capital), strict=True),
    )
    capital = await model.generate(task.CAPITAL_QUESTION, config=schema)
    agent = get_model("openai-api/heir/m", base_url=f"{task.SCRIPTED}/v1", api_key=task.KEY)
    _, final = await agent.generate_loop(task.WEATHER_QUESTION, tools=[weather()])
    try:
        await model.generate(asked, config=GenerateConfig(temperature=-1, max_retries=0))
    except Exception as refused:
        error = repr(refused)
    else:
        error = "none"
    return {
        "chat": whole.completion,
        "vllm": (await vllm.generate(asked, config=greedy)).completion,
        "usage": whole.usage.output_tokens,
        "logprobs": len(scored.choices[0].logprobs.content),
        "structured": json.loads(capital.completion),
        "tools": final.completion,
        "error": error,
    }


task.report(**asyncio.run(everything()))
