"""The newest clients, unmodified, each in an environment of its own, against the real container.

tests/clients/programs/ holds what each does; requirements/clients/ pins each environment; docs/clients.md lists them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import FINAL
from tests.contract.openai.scripted import ScriptedServer
from tests.support.server import ROOT, Server
from tools.client_locks import CLIENTS, pinned

ENVIRONMENTS = ROOT / ".venv-clients"
PROGRAMS = Path(__file__).parent / "programs"
# No client may ask a host that is not this machine.
QUIET = {
    "DO_NOT_TRACK": "1",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}

# By another door.
RESPONSES = {"responses", "usage_of_responses", "stream_of_responses", "tools_by_responses"}
MESSAGES = {"messages", "stream_of_messages", "structured_by_messages", "tools_by_messages"}
COMMON = {"chat", "usage", "stream", "structured", "tools", "error"}
# What the client cannot read, whoever answers, and the error that it raises.
FAILURES = {"stream_fails": "AttributeError", "reading_calls_fails": "KeyError"}
# What each program reports.
REPORTED = {
    "anthropic": COMMON | {"stream_usage", "structured_by_call", "counted", "reasoning"},
    "aiperf": {"chat_runs", "response_runs", "message_runs", "tgi_runs"},
    "dspy": {
        *("chat", "usage", "structured", "calls", "error"),
        *("responses", "usage_of_responses", "structured_by_responses"),
    },
    "guidellm": {"chat_runs", "response_runs"},
    "haystack-ai": COMMON | RESPONSES | {"structured_by_responses"},
    "inspect-ai": COMMON - {"stream"} | {"vllm", "logprobs"},
    "instructor": {"structured", "structured_by_call", "structured_by_strict_call", "structured_parts"},
    "langchain-openai": COMMON | RESPONSES | {"stream_usage", "structured_by_call"},
    "litellm": {
        *(*COMMON, *RESPONSES, *MESSAGES),
        *("stream_usage", "hosted_vllm", "huggingface", "tools_replayed_as_dumped", "reasoning"),
    },
    "llama-index": COMMON | RESPONSES | {"structured_by_call", "huggingface"},
    "llama-index-tgi": {"chat", "complete", "calls", "context_window", "is_function_calling_model", *FAILURES},
    "lm-eval": {"scored_by_remote_tokenizer", "scored_by_own_tokenizer", "scored_as_text", "chat", "complete"},
    "openai": {
        *(*COMMON, *RESPONSES, "structured_by_responses"),
        *("stream_usage", "async_stream", "tools_replayed_as_dumped", "models", "decisions", "no_questions"),
    },
    "openai-agents": {
        *(*COMMON, "structured_by_responses", "tools_by_responses", "tools_by_streamed_responses"),
        *("stream_usage", "settings_of_newer_models"),
    },
    "pydantic-ai": {
        *(*COMMON, *RESPONSES, *MESSAGES),
        *("structured_by_responses", "usage_of_messages", "stream_usage", "structured_by_call"),
    },
    "smolagents": COMMON | {"tools_streamed"},
    "text-generation": {
        *("drawn_chat", "stream", "generate", "generate_stream", "generate_async", "generated_tokens", "error"),
        *("hub_chat", "hub_text_generation"),
    },
}  # fmt: skip


def is_capital(found: Any) -> bool:
    """As the schema demands; a small model may be wrong about the rest."""
    return (
        isinstance(found, dict)
        and found.keys() == {"capital", "is_in_europe"}
        and found["capital"] in {"Berlin", "Paris"}
        and isinstance(found["is_in_europe"], bool)
    )


def city(arguments: Any) -> Any:
    """The arguments of a call, parsed or not yet."""
    return json.loads(arguments) if isinstance(arguments, str) else arguments


# A key of a report in full -> whether a program may report `found`, when the greedy answer is `answer`.
RIGHT: dict[str, Callable[[Any, str], bool]] = {
    "chat|hub_chat|huggingface|hosted_vllm|vllm|settings_of_newer_models|responses|messages": lambda found, answer: (
        found == answer
    ),
    "drawn_chat": lambda found, answer: found[:40] == answer[:40],
    "stream|async_stream|stream_of_.*": lambda found, answer: (
        "".join(found) == answer and len([each for each in found if each]) > 5
    ),
    "usage|usage_of_.*|stream_usage|logprobs": lambda found, _: found == 24,
    "structured.*": lambda found, _: is_capital(found),
    "tools.*": lambda found, _: found == FINAL,
    "calls": lambda found, _: [city(each) for each in found] == [{"city": "Paris"}],
    "reasoning": lambda found, _: found.strip() == "Hm.",
    "error": lambda found, _: re.search(r"`(temperature|top_p)` must be ", found) is not None,
    ".*_runs": lambda found, _: found == [0, 4],
    "generate|generate_stream|generate_async|hub_text_generation": lambda found, _: "Paris" in found,
    "generated_tokens": lambda found, _: found == 6,
    "complete": lambda found, _: bool(found),
    "models": lambda found, _: len(found) == 1,
    "decisions": lambda found, _: found == [["predicate", "refund"], ["choice", None], ["score", "urgency"]],
    "no_questions": lambda found, _: "`questions`" in found,
    "context_window": lambda found, _: found == 8192,
    "is_function_calling_model|counted|scored_.*": lambda found, _: found is True,
    **{key: lambda found, _, error=error: found == error for key, error in FAILURES.items()},
}


def is_right(key: str, found: Any, answer: str) -> bool:
    """Raises ValueError unless one rule covers the key."""
    (rule,) = (rule for pattern, rule in RIGHT.items() if re.fullmatch(pattern, key))
    return rule(found, answer)


@pytest.fixture(scope="session")
def tokenizer(chat_server: Server) -> Path:
    """The bundled model's directory, which the server has made."""
    from container.settings import Settings
    from handler.model.gguf_model import bundled_gguf, converted

    return converted(bundled_gguf(), Path(Settings.from_environ(os.environ).cache_dir), lambda *_: None)


@pytest.mark.bundled
@pytest.mark.needs("clients")
@pytest.mark.parametrize("name", CLIENTS)
def test_client(
    name: str, chat_server: Server, agent: ScriptedServer, tokenizer: Path, greedy_answer: str, tmp_path: Path
) -> None:
    python = ENVIRONMENTS / name / "bin" / "python"
    program = PROGRAMS / f"use_{name.replace('-', '_')}.py"
    environ = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ} | QUIET | {"HOME": str(tmp_path)}
    run = subprocess.run(
        [python, program, chat_server.url, agent.url, tokenizer],
        cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    report = json.loads(run.stdout.splitlines()[-1])
    assert report.keys() == REPORTED[name]
    wrong = {key: found for key, found in report.items() if not is_right(key, found, greedy_answer)}
    assert not wrong


def test_every_client_has_a_program() -> None:
    programs = {path.stem.removeprefix("use_").replace("_", "-") for path in PROGRAMS.glob("use_*.py")}
    assert programs == CLIENTS.keys() == REPORTED.keys()


@pytest.mark.parametrize("name", CLIENTS)
def test_the_page_names_the_versions_that_are_pinned(name: str) -> None:
    packages = pinned(name)
    client = re.match(r"[\w-]+", CLIENTS[name][0])
    assert client
    page = (ROOT / "docs" / "clients.md").read_text()
    assert f"| `{client[0]}` {packages[client[0]]} |" in page
