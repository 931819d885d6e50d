from typing import Literal

import dspy
import task


class Capital(dspy.Signature):
    """Answer the question."""

    question: str = dspy.InputField()
    capital: Literal["Berlin", "Paris"] = dspy.OutputField()
    is_in_europe: bool = dspy.OutputField()


class Assist(dspy.Signature):
    """Call the tool that answers the question."""

    question: str = dspy.InputField()
    tools: list[dspy.Tool] = dspy.InputField()
    outputs: dspy.ToolCalls = dspy.OutputField()


def model(url: str, name: str = "openai/m", **arguments: object) -> dspy.LM:
    return dspy.LM(
        name,
        api_base=f"{url}/v1",
        api_key=task.KEY,
        cache=False,
        num_retries=0,
        temperature=task.TEMPERATURE,
        **arguments,
    )


# dspy asks for a schema and offers tools only where it knows the model's name.
KNOWN = "openai/gpt-4o-mini"
greedy = model(task.URL, max_tokens=task.MAX_TOKENS)
whole = greedy(messages=task.MESSAGES)
with dspy.context(lm=model(task.URL, KNOWN), adapter=dspy.JSONAdapter()):
    capital = dspy.Predict(Capital)(question=task.CAPITAL_QUESTION)
with dspy.context(lm=model(task.SCRIPTED, KNOWN), adapter=dspy.ChatAdapter(use_native_function_calling=True)):
    calls = dspy.Predict(Assist)(question=task.WEATHER_QUESTION, tools=[dspy.Tool(task.weather)]).outputs.tool_calls
response_model = model(task.URL, max_tokens=task.MAX_TOKENS, model_type="responses")
(response,) = response_model(messages=task.MESSAGES)
with dspy.context(lm=model(task.URL, KNOWN, model_type="responses"), adapter=dspy.JSONAdapter()):
    by_format = dspy.Predict(Capital)(question=task.CAPITAL_QUESTION)

try:
    model(task.URL, top_p=7)(messages=task.MESSAGES)
except Exception as refused:  # litellm's or dspy's own
    error = str(refused)

task.report(
    chat=whole[0] if isinstance(whole[0], str) else whole[0]["text"],
    usage=greedy.history[-1]["usage"]["completion_tokens"],
    structured={"capital": capital.capital, "is_in_europe": capital.is_in_europe},
    calls=[call.args for call in calls],
    responses=response if isinstance(response, str) else response["text"],
    usage_of_responses=response_model.history[-1]["usage"]["completion_tokens"],
    structured_by_responses={"capital": by_format.capital, "is_in_europe": by_format.is_in_europe},
    error=error,
)
