import asyncio
import json
from typing import Literal

import openai
import task
from openai.types import Decision
from pydantic import BaseModel


class Capital(BaseModel):
    capital: Literal["Berlin", "Paris"]
    is_in_europe: bool


class Weather(BaseModel):
    city: str


client = openai.OpenAI(base_url=f"{task.URL}/v1", api_key=task.KEY, max_retries=0)
greedy = {
    "model": "m",
    "messages": task.MESSAGES,
    "temperature": task.TEMPERATURE,
    "max_completion_tokens": task.MAX_TOKENS,
}
whole = client.chat.completions.create(**greedy)
chunks = list(client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **greedy))


async def in_async() -> list[str]:
    async with openai.AsyncOpenAI(base_url=f"{task.URL}/v1", api_key=task.KEY, max_retries=0) as client:
        stream = await client.chat.completions.create(stream=True, **greedy)
        return [chunk.choices[0].delta.content or "" async for chunk in stream]


capital = [{"role": "user", "content": task.CAPITAL_QUESTION}]
parsed = client.chat.completions.parse(model="m", messages=capital, response_format=Capital).choices[0].message.parsed

scripted = openai.OpenAI(base_url=f"{task.SCRIPTED}/v1", api_key=task.KEY, max_retries=0)
tool = openai.pydantic_function_tool(Weather, name="weather")
asked = [{"role": "user", "content": task.WEATHER_QUESTION}]
with scripted.chat.completions.stream(model="m", messages=asked, tools=[tool]) as stream:
    message = stream.get_final_completion().choices[0].message
call = message.tool_calls[0]
result = {"role": "tool", "tool_call_id": call.id, "content": task.weather(call.function.parsed_arguments.city)}
final = scripted.chat.completions.create(model="m", messages=[*asked, message, result], tools=[tool])
# As users do: the message goes back as it was dumped.
dumped = scripted.chat.completions.create(model="m", messages=[*asked, message.model_dump(), result], tools=[tool])

said = {
    "model": "m",
    "instructions": task.SYSTEM,
    "input": task.QUESTION,
    "temperature": task.TEMPERATURE,
    "max_output_tokens": task.MAX_TOKENS,
}
response = client.responses.create(**said)
with client.responses.stream(**said) as stream:
    response_deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
answered = client.responses.parse(model="m", input=task.CAPITAL_QUESTION, text_format=Capital, temperature=0)


def with_two_tools() -> str:
    """The loop of an agent: whatever the model says goes back as it is."""
    offered = [
        {"type": "function", "name": name, "parameters": task.CITY_SCHEMA, "strict": True} for name in task.TOOLS
    ]
    history = [{"role": "user", "content": task.WEATHER_QUESTION}]
    while True:
        with scripted.responses.stream(model="m", input=history, tools=offered) as stream:
            answer = stream.get_final_response()
        calls = [item for item in answer.output if item.type == "function_call"]
        if not calls:
            return answer.output_text
        history += [item.model_dump(exclude={"parsed_arguments"}) for item in answer.output]
        for call in calls:
            result = task.TOOLS[call.name](**json.loads(call.arguments))
            history.append({"type": "function_call_output", "call_id": call.call_id, "output": result})


decision = client.decisions.with_raw_response.create(
    model="m",
    input="I was charged twice for the same order. Please send my money back!",
    questions=[
        {"type": "predicate", "name": "refund", "instructions": "The customer wants money back."},
        {"type": "choice", "instructions": "Who helps?", "choices": [{"value": "billing"}, {"value": True}]},
        {
            "type": "score",
            "name": "urgency",
            "instructions": [{"type": "input_text", "text": "How urgent is it?"}],
            "levels": [{"label": "low"}, {"label": "high", "description": "today"}],
        },
    ],
)
# The client itself validates nothing.
decided = Decision.model_validate(json.loads(decision.content), strict=True)
assert decided == decision.parse()
refund, helper, urgency = decided.answers
assert 0 < refund.probability < 1
assert helper.choice in {"billing", True}
for answer in (helper, urgency):
    assert abs(sum(each.probability for each in answer.probabilities) - 1) < 1e-9
assert abs(urgency.score - urgency.probabilities[1].probability) < 1e-9
assert decided.usage.input_tokens_details.cached_tokens > 0
try:
    client.decisions.create(model="m", input="x", questions=[])
except openai.BadRequestError as refused:
    no_questions = refused.message

try:
    client.chat.completions.create(**greedy | {"temperature": -1})
except openai.BadRequestError as refused:
    error = f"{refused.param}: {refused.message}"

task.report(
    chat=whole.choices[0].message.content,
    usage=whole.usage.completion_tokens,
    stream=[chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices],
    stream_usage=chunks[-1].usage.completion_tokens,
    async_stream=asyncio.run(in_async()),
    structured=parsed.model_dump(),
    tools=final.choices[0].message.content,
    tools_replayed_as_dumped=dumped.choices[0].message.content,
    models=[model.id for model in client.models.list()],
    responses=response.output_text,
    usage_of_responses=response.usage.output_tokens,
    stream_of_responses=response_deltas,
    structured_by_responses=answered.output_parsed.model_dump(),
    tools_by_responses=with_two_tools(),
    decisions=[[answer.type, answer.name] for answer in decided.answers],
    no_questions=no_questions,
    error=error,
)
