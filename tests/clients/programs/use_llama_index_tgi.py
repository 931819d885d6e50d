from collections.abc import Callable

import task
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.text_generation_inference import TextGenerationInference

model = TextGenerationInference(model_url=task.URL, temperature=0.01, max_tokens=task.MAX_TOKENS)
messages = [ChatMessage(**message) for message in task.MESSAGES]
agent = TextGenerationInference(model_url=task.SCRIPTED)
tool = FunctionTool.from_defaults(task.weather)
first = agent.chat_with_tools([tool], user_msg=task.WEATHER_QUESTION)
calls = first.message.additional_kwargs["tool_calls"]


def error_of(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "none"


task.report(
    chat=model.chat(messages).message.content,
    complete=model.complete("The capital of France is").text,
    context_window=model.metadata.context_window,
    is_function_calling_model=model.metadata.is_function_calling_model,
    calls=[call["function"]["arguments"] for call in calls],
    # What docs/clients.md says of this client; against TGI 3 too.
    stream_fails=error_of(lambda: list(model.stream_chat(messages))),
    reading_calls_fails=error_of(lambda: agent.get_tool_calls_from_response(first)),
)
