import json

import task
from smolagents import OpenAIServerModel, ToolCallingAgent, tool
from smolagents.models import ChatMessage

model = OpenAIServerModel("m", api_base=f"{task.URL}/v1", api_key=task.KEY, temperature=task.TEMPERATURE)
messages = [
    ChatMessage(role=each["role"], content=[{"type": "text", "text": each["content"]}]) for each in task.MESSAGES
]
whole = model.generate(messages, max_tokens=task.MAX_TOKENS)
pieces = [delta.content or "" for delta in model.generate_stream(messages, max_tokens=task.MAX_TOKENS)]
schema = {"type": "json_schema", "json_schema": {"name": "capital", "strict": True, "schema": task.CAPITAL_SCHEMA}}
capital = model.generate([ChatMessage(role="user", content=task.CAPITAL_QUESTION)], response_format=schema)
agent = ToolCallingAgent(
    tools=[tool(task.weather)],
    model=OpenAIServerModel("m", api_base=f"{task.SCRIPTED}/v1", api_key=task.KEY),
    max_steps=3,
    verbosity_level=0,
)
final = agent.run(task.WEATHER_QUESTION)
streaming = ToolCallingAgent(
    tools=[tool(task.weather)],
    model=OpenAIServerModel("m", api_base=f"{task.SCRIPTED}/v1", api_key=task.KEY),
    max_steps=3,
    verbosity_level=0,
    stream_outputs=True,
)

try:
    model.generate(messages, max_tokens=task.MAX_TOKENS, top_p=7)
except Exception as refused:  # whatever it makes of OpenAI's
    error = str(refused)

task.report(
    chat=whole.content,
    usage=whole.token_usage.output_tokens,
    stream=pieces,
    structured=json.loads(capital.content),
    tools=final,
    tools_streamed=streaming.run(task.WEATHER_QUESTION),
    error=error,
)
