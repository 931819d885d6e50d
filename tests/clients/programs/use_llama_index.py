from typing import Literal

import openai
import task
from llama_index.core.llms import ChatMessage
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.tools import FunctionTool
from llama_index.llms.huggingface_api import HuggingFaceInferenceAPI
from llama_index.llms.openai import OpenAIResponses
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class Capital(BaseModel):
    """The capital of a country."""

    capital: Literal["Berlin", "Paris"]
    is_in_europe: bool


common = {"model": "m", "api_key": task.KEY, "is_chat_model": True, "is_function_calling_model": True, "max_retries": 0}
model = OpenAILike(api_base=f"{task.URL}/v1", temperature=task.TEMPERATURE, max_tokens=task.MAX_TOKENS, **common)
messages = [ChatMessage(**message) for message in task.MESSAGES]
whole = model.chat(messages)
pieces = [chunk.delta for chunk in model.stream_chat(messages)]
unlimited = OpenAILike(
    api_base=f"{task.URL}/v1", temperature=task.TEMPERATURE, should_use_structured_outputs=True, **common
)  # response_format
by_schema = unlimited.as_structured_llm(Capital).chat([ChatMessage(task.CAPITAL_QUESTION)]).raw
by_call = OpenAILike(api_base=f"{task.URL}/v1", temperature=task.TEMPERATURE, **common)
called = by_call.as_structured_llm(Capital).chat([ChatMessage(task.CAPITAL_QUESTION)]).raw


def round_trip(agent: FunctionCallingLLM, name_of_id: str) -> str:
    tool = FunctionTool.from_defaults(task.weather)
    first = agent.chat_with_tools([tool], user_msg=task.WEATHER_QUESTION)
    (call,) = agent.get_tool_calls_from_response(first)
    result = ChatMessage(
        role="tool", content=str(tool(**call.tool_kwargs)), additional_kwargs={name_of_id: call.tool_id}
    )
    history = [ChatMessage(task.WEATHER_QUESTION), first.message, result]
    return agent.chat_with_tools([tool], chat_history=history).message.content


door = {"model": "m", "api_key": task.KEY, "max_retries": 0, "context_window": 8192}
responses = OpenAIResponses(
    api_base=f"{task.URL}/v1", temperature=task.TEMPERATURE, max_output_tokens=task.MAX_TOKENS, **door
)
response = responses.chat(messages)

hub = HuggingFaceInferenceAPI(model=task.URL, temperature=0.01, num_output=task.MAX_TOKENS, token=task.KEY)
try:
    model.chat(messages, top_p=7)
except openai.BadRequestError as refused:
    error = str(refused)

task.report(
    chat=whole.message.content,
    usage=whole.raw.usage.completion_tokens,
    stream=pieces,
    structured=by_schema.model_dump(),
    structured_by_call=called.model_dump(),
    tools=round_trip(OpenAILike(api_base=f"{task.SCRIPTED}/v1", **common), "tool_call_id"),
    responses=response.message.content,
    usage_of_responses=response.raw.usage.output_tokens,
    stream_of_responses=[chunk.delta for chunk in responses.stream_chat(messages)],
    tools_by_responses=round_trip(OpenAIResponses(api_base=f"{task.SCRIPTED}/v1", **door), "call_id"),
    huggingface=hub.chat(messages).message.content,
    error=error,
)
