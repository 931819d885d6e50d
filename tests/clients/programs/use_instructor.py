from typing import Literal

import instructor
import openai
import task
from pydantic import BaseModel


class Capital(BaseModel):
    """The capital of a country."""

    capital: Literal["Berlin", "Paris"]
    is_in_europe: bool


def ask(mode: instructor.Mode) -> dict[str, object]:
    client = instructor.from_openai(
        openai.OpenAI(base_url=f"{task.URL}/v1", api_key=task.KEY, max_retries=0), mode=mode
    )
    messages = [{"role": "user", "content": task.CAPITAL_QUESTION}]
    found = client.chat.completions.create(
        model="m", messages=messages, response_model=Capital, max_retries=0, temperature=task.TEMPERATURE
    )
    return found.model_dump()


def parts() -> list[dict[str, object]]:
    """A streamed answer, as far as it goes each time."""
    client = instructor.from_openai(
        openai.OpenAI(base_url=f"{task.URL}/v1", api_key=task.KEY, max_retries=0), mode=instructor.Mode.TOOLS
    )
    stream = client.chat.completions.create_partial(
        model="m",
        messages=[{"role": "user", "content": task.CAPITAL_QUESTION}],
        response_model=Capital,
        temperature=task.TEMPERATURE,
    )
    return [part.model_dump() for part in stream]


task.report(
    structured=ask(instructor.Mode.JSON_SCHEMA),
    structured_by_call=ask(instructor.Mode.TOOLS),
    structured_by_strict_call=ask(instructor.Mode.TOOLS_STRICT),
    structured_parts=parts()[-1],
)
