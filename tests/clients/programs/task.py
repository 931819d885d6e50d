"""What every program of this folder asks, and how it reports. Each runs in its client's environment, not in ours.

    python PROGRAM URL SCRIPTED TOKENIZER

URL serves the bundled model, whose tokenizer lies in the directory TOKENIZER. SCRIPTED serves a model that calls the
tool `weather`, then `clock` if it is offered, and then tells the weather.
"""

from __future__ import annotations

import json
import sys
from typing import Any

URL, SCRIPTED, TOKENIZER = sys.argv[1:4]
KEY = "-"
SYSTEM = "You are a helpful assistant."
QUESTION = "What is deep learning?"
MESSAGES: list[Any] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]
MAX_TOKENS = 24
# Greedy.
TEMPERATURE = 0
WEATHER_QUESTION = "What is the weather in Paris?"
CAPITAL_QUESTION = "What is the capital of France?"
# Small and closed: a model of any size ends.
CAPITAL_SCHEMA = {
    "type": "object",
    "properties": {"capital": {"enum": ["Berlin", "Paris"]}, "is_in_europe": {"type": "boolean"}},
    "required": ["capital", "is_in_europe"],
    "additionalProperties": False,
}


def weather(city: str) -> str:
    """Tell the weather in a city.

    Args:
        city: The city's name.
    """
    return f"rain in {city}"


def clock(city: str) -> str:
    """Tell the time in a city.

    Args:
        city: The city's name.
    """
    return f"noon in {city}"


TOOLS = {"weather": weather, "clock": clock}
CITY_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


def report(**found: Any) -> None:
    """The last line of the output; a client may have left one without an end."""
    print()
    print(json.dumps(found))
