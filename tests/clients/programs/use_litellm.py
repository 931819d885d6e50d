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
    error=error,
)
