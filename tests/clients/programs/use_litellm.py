import json

import litellm
import task

greedy = {"messages": task.MESSAGES, "temperature": task.TEMPERATURE, "max_tokens": task.MAX_TOKENS}
# The names of the providers under which users reach a server of their own.
doors = {
    "openai": {"model": "openai/m", "api_base": f"{task.URL}/v1", "api_key": task.KEY},
    "hosted_vllm": {"model": "hosted_vllm/m", "api_base": f"{task.URL}/v1", "api_key": task.KEY},
    "huggingface": {"model": "huggingface/m", "api_base": task.URL, "api_key": task.KEY},
}
answers = {name: litellm.completion(**door, **greedy) for name, door in doors.items()}
chunks = list(litellm.completion(**doors["hosted_vllm"], **greedy, stream=True, stream_options={"include_usage": True}))
schema = {"type": "json_schema", "json_schema": {"name": "capital", "strict": True, "schema": task.CAPITAL_SCHEMA}}
capital = litellm.completion(
    **doors["hosted_vllm"], messages=[{"role": "user", "content": task.CAPITAL_QUESTION}], response_format=schema
)

scripted = {"model": "hosted_vllm/m", "api_base": f"{task.SCRIPTED}/v1", "api_key": task.KEY}
tool = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
asked = [{"role": "user", "content": task.WEATHER_QUESTION}]
message = litellm.completion(**scripted, messages=asked, tools=[tool], tool_choice="auto").choices[0].message
call = message.tool_calls[0]
result = {
    "role": "tool",
    "tool_call_id": call.id,
    "name": "weather",
    "content": task.weather(**json.loads(call.function.arguments)),
}
final = litellm.completion(**scripted, messages=[*asked, message, result], tools=[tool])
# As users do: the message goes back as litellm writes it, with `provider_specific_fields` and the like.
dumped = litellm.completion(**scripted, messages=[*asked, message.model_dump(), result], tools=[tool])

said = {"input": task.QUESTION, "instructions": task.SYSTEM, "temperature": task.TEMPERATURE}
responses = litellm.responses(**doors["hosted_vllm"], **said, max_output_tokens=task.MAX_TOKENS)
streamed = litellm.responses(**doors["hosted_vllm"], **said, max_output_tokens=task.MAX_TOKENS, stream=True)
anthropic = {"model": "anthropic/claude-m", "api_base": task.URL, "api_key": task.KEY}
messages = litellm.completion(**anthropic, **greedy)
message_chunks = list(litellm.completion(**anthropic, **greedy, stream=True))
formed = litellm.completion(
    **anthropic, messages=[{"role": "user", "content": task.CAPITAL_QUESTION}], response_format=schema
)


def with_two_tools() -> str:
    offered = [{"type": "function", "name": name, "parameters": task.CITY_SCHEMA} for name in task.TOOLS]
    history = [{"role": "user", "content": task.WEATHER_QUESTION}]
    while True:
        answer = litellm.responses(**scripted, input=history, tools=offered)
        items = [item if isinstance(item, dict) else item.model_dump() for item in answer.output]
        calls = [item for item in items if item["type"] == "function_call"]
        if not calls:
            return items[-1]["content"][0]["text"]
        history += items
        for call in calls:
            output = task.TOOLS[call["name"]](**json.loads(call["arguments"]))
            history.append({"type": "function_call_output", "call_id": call["call_id"], "output": output})


def with_two_tools_by_messages() -> str:
    offered = [{"type": "function", "function": {"name": n, "parameters": task.CITY_SCHEMA}} for n in task.TOOLS]
    history = [{"role": "user", "content": task.WEATHER_QUESTION}]
    while True:
        said = litellm.completion(**anthropic | {"api_base": task.SCRIPTED}, messages=history, tools=offered)
        message = said.choices[0].message
        if not message.tool_calls:
            return message.content
        history.append(message.model_dump())
        for call in message.tool_calls:
            output = task.TOOLS[call.function.name](**json.loads(call.function.arguments))
            history.append({"role": "tool", "tool_call_id": call.id, "content": output})


try:
    litellm.completion(**doors["hosted_vllm"], **greedy | {"temperature": -1})
except litellm.BadRequestError as refused:
    error = str(refused)

task.report(
    chat=answers["openai"].choices[0].message.content,
    hosted_vllm=answers["hosted_vllm"].choices[0].message.content,
    huggingface=answers["huggingface"].choices[0].message.content,
    usage=answers["openai"].usage.completion_tokens,
    stream=[chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices],
    stream_usage=chunks[-1].usage.completion_tokens,
    structured=json.loads(capital.choices[0].message.content),
    tools=final.choices[0].message.content,
    tools_replayed_as_dumped=dumped.choices[0].message.content,
    reasoning=message.reasoning_content,
    responses=responses.output[-1].content[0].text,
    usage_of_responses=responses.usage.output_tokens,
    stream_of_responses=[event.delta for event in streamed if event.type == "response.output_text.delta"],
    tools_by_responses=with_two_tools(),
    messages=messages.choices[0].message.content,
    stream_of_messages=[chunk.choices[0].delta.content or "" for chunk in message_chunks if chunk.choices],
    structured_by_messages=json.loads(formed.choices[0].message.content),
    tools_by_messages=with_two_tools_by_messages(),
    error=error,
)
