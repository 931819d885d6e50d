import json
from typing import Literal

import anthropic
import task
from pydantic import BaseModel


class Capital(BaseModel):
    capital: Literal["Berlin", "Paris"]
    is_in_europe: bool


def client(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key=task.KEY, max_retries=0)


# Its `create` has no argument for the temperature.
greedy = {
    "model": "claude-m",
    "max_tokens": task.MAX_TOKENS,
    "system": task.SYSTEM,
    "messages": [{"role": "user", "content": task.QUESTION}],
    "extra_body": {"temperature": task.TEMPERATURE},
}
speaker = client(task.URL)
whole = speaker.messages.create(**greedy)
with speaker.messages.stream(**greedy) as stream:
    pieces = list(stream.text_stream)
    streamed = stream.get_final_message()
counted = speaker.messages.count_tokens(model="claude-m", system=task.SYSTEM, messages=greedy["messages"])
# Every field that the client's types require is there: nothing is read as a type that it is not.
anthropic.types.Message.model_validate(whole.model_dump())
formed = speaker.messages.create(
    model="claude-m",
    max_tokens=99,
    messages=[{"role": "user", "content": task.CAPITAL_QUESTION}],
    output_config={"format": {"type": "json_schema", "schema": task.CAPITAL_SCHEMA}},
)
schema = {"name": "capital", "input_schema": task.CAPITAL_SCHEMA}
by_call = speaker.messages.create(
    model="claude-m",
    max_tokens=99,
    messages=[{"role": "user", "content": task.CAPITAL_QUESTION}],
    tools=[schema],
    tool_choice={"type": "tool", "name": "capital"},
)


def with_two_tools() -> tuple[str, list[str]]:
    """The loop of an agent: whatever the model says goes back as it is."""
    offered = [{"name": name, "input_schema": task.CITY_SCHEMA} for name in task.TOOLS]
    history = [{"role": "user", "content": task.WEATHER_QUESTION}]
    thoughts = []
    while True:
        with client(task.SCRIPTED).messages.stream(
            model="claude-m", max_tokens=999, messages=history, tools=offered, thinking={"type": "adaptive"}
        ) as stream:
            answer = stream.get_final_message()
        thoughts += [block.thinking for block in answer.content if block.type == "thinking"]
        if answer.stop_reason != "tool_use":
            return answer.content[-1].text, thoughts
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": task.TOOLS[block.name](**block.input)}
            for block in answer.content
            if block.type == "tool_use"
        ]
        history += [{"role": "assistant", "content": answer.content}, {"role": "user", "content": results}]


final, thoughts = with_two_tools()
try:
    speaker.messages.create(**greedy | {"extra_body": {"temperature": -1}})
except anthropic.BadRequestError as refused:
    error = str(refused)

task.report(
    chat=whole.content[0].text,
    usage=whole.usage.output_tokens,
    stream=pieces,
    stream_usage=streamed.usage.output_tokens,
    structured=json.loads(formed.content[0].text),
    structured_by_call=by_call.content[0].input,
    counted=counted.input_tokens == whole.usage.input_tokens + whole.usage.cache_read_input_tokens,
    tools=final,
    reasoning=thoughts[0],
    error=error,
)
