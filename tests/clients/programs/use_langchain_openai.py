from typing import Literal

import openai
import task
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Capital(BaseModel):
    """The capital of a country."""

    capital: Literal["Berlin", "Paris"]
    is_in_europe: bool


common = {"model": "m", "api_key": task.KEY, "max_retries": 0}
model = ChatOpenAI(
    base_url=f"{task.URL}/v1", temperature=task.TEMPERATURE, max_tokens=task.MAX_TOKENS, stream_usage=True, **common
)
asked = [("system", task.SYSTEM), ("human", task.QUESTION)]
whole = model.invoke(asked)
chunks = list(model.stream(asked))
unlimited = ChatOpenAI(base_url=f"{task.URL}/v1", temperature=task.TEMPERATURE, **common)
structured = {
    method: unlimited.with_structured_output(Capital, method=method).invoke(task.CAPITAL_QUESTION).model_dump()
    for method in ("json_schema", "function_calling")
}

weather = tool(task.weather)
bound = ChatOpenAI(base_url=f"{task.SCRIPTED}/v1", **common).bind_tools([weather])
history = [HumanMessage(task.WEATHER_QUESTION)]
history.append(bound.invoke(history))
for call in history[-1].tool_calls:
    history.append(ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"]))
final = bound.invoke(history)

by_responses = ChatOpenAI(
    base_url=f"{task.URL}/v1",
    temperature=task.TEMPERATURE,
    max_tokens=task.MAX_TOKENS,
    use_responses_api=True,
    **common,
)
response = by_responses.invoke(asked)
door = ChatOpenAI(base_url=f"{task.SCRIPTED}/v1", use_responses_api=True, **common).bind_tools([weather])
turns = [HumanMessage(task.WEATHER_QUESTION)]
turns.append(door.invoke(turns))
for call in turns[-1].tool_calls:
    turns.append(ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"]))

try:
    ChatOpenAI(base_url=f"{task.URL}/v1", temperature=-1, **common).invoke(task.QUESTION)
except openai.BadRequestError as refused:
    error = str(refused)

task.report(
    chat=whole.text,
    usage=whole.usage_metadata["output_tokens"],
    stream=[chunk.text for chunk in chunks],
    stream_usage=sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata),
    responses=response.text,
    usage_of_responses=response.usage_metadata["output_tokens"],
    stream_of_responses=[chunk.text for chunk in by_responses.stream(asked)],
    tools_by_responses=door.invoke(turns).text,
    structured=structured["json_schema"],
    structured_by_call=structured["function_calling"],
    tools=final.text,
    error=error,
)
