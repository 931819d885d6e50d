"""The newest command-line agents, unmodified: one turn each in which the model runs a command.

requirements/agents/ pins them; tests/clients/agents/settings.py shows how each is set up; docs/clients.md lists them.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handler.seam.protocol import GenerateRequest
from tests.clients.agents.settings import Agent, agents
from tests.clients.conftest import call
from tests.contract.openai.scripted import ScriptedServer, serving
from tests.support.server import ROOT, Server

REQUIREMENTS = ROOT / "requirements" / "agents"
NAMES = list(agents(""))
# Only a shell makes the second of the first.
COMMAND, PRINTED = "echo heir-$((40+2))-heir", "heir-42-heir"
FINAL = "The command has run."
# What the agents call their shells, and that argument of it which is the command.
SHELLS = {"exec_command": "cmd", "Bash": "command", "bash": "command", "run_shell_command": "command"}


@pytest.fixture(scope="module")
def coder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedServer]:
    """A model that thinks, runs `COMMAND` in the agent's shell, and when it has read `PRINTED` says `FINAL`."""
    with serving(tmp_path_factory.mktemp("coder"), "qwen3") as server:
        server.engine.script = lambda request: _next_step(server, request)
        server.engine.bytes_per_step = 4
        yield server


def _next_step(server: ScriptedServer, request: GenerateRequest) -> str:
    prompt = server.engine.text(request.prompt_token_ids)
    if PRINTED in prompt:
        return FINAL
    shell = next((name for name in SHELLS if f'"function": {{"name": "{name}"' in prompt), None)
    if shell is None:
        return "A title."  # which opencode asks for beside the conversation
    # Qwen Code repeats a call without `is_background`; Codex takes no `description`.
    others: dict[str, Any] = {} if shell == "exec_command" else {"description": "Echo."}
    others |= {"is_background": False} if shell == "run_shell_command" else {}
    return "<think>\nHm.\n</think>\n\nI run it.\n" + call(shell, **{SHELLS[shell]: COMMAND}, **others)


def run(agent: Agent, home: Path, prompt: str) -> subprocess.CompletedProcess[str]:
    """The agent in an empty folder, with files of its own."""
    for name, text in agent.files.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    folder = home / "work"
    folder.mkdir()
    return subprocess.run(
        agent.command(prompt), cwd=folder, env=agent.environment(home),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip


def answered(server: Server) -> list[tuple[str, int]]:
    """Route and status of each request that was posted, as the log has them."""
    lines = (json.loads(line) for line in server.log.read_text().splitlines() if '"method": "POST"' in line)
    return [(line["route"], line["status"]) for line in lines]


@pytest.mark.needs("agents")
@pytest.mark.parametrize("name", NAMES)
def test_an_agent_runs_a_command(name: str, coder: ScriptedServer, tmp_path: Path) -> None:
    agent = agents(coder.url)[name]
    before = len(answered(coder))
    coder.engine.requests.clear()
    done = run(agent, tmp_path, "Run the command.")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert FINAL in done.stdout
    coder.settle()
    found = answered(coder)[before:]
    assert set(found) == {(agent.route, 200)}, found
    assert len(found) >= 2
    assert PRINTED in "".join(coder.engine.text(each.prompt_token_ids) for each in coder.engine.requests)


# What the agents tell their users of a prompt that is longer than the bundled model's 8,192 tokens.
TOO_LONG = {
    "codex": "ran out of room in the model's context window",
    "claude-code": r"Prompt is too long .* the request is ~\d+ tokens \(limit 8191\)",
    "qwen-code": r"`inputs` (tokens|must have)",
}


@pytest.mark.bundled
@pytest.mark.needs("agents")
@pytest.mark.parametrize("name", TOO_LONG)
def test_an_agent_says_that_its_prompt_is_too_long(name: str, chat_server: Server, tmp_path: Path) -> None:
    done = run(agents(chat_server.url)[name], tmp_path, "Say hello.")
    assert done.returncode != 0
    assert re.search(TOO_LONG[name], done.stdout + done.stderr), done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.bundled
@pytest.mark.needs("agents")
def test_an_agent_talks_to_the_bundled_model(chat_server: Server, tmp_path: Path) -> None:
    """Claude Code without its tools and with a short system prompt, which the small model has room for."""
    agent = agents(chat_server.url)["claude-code"]
    short = ("--tools", "", "--system-prompt", "You are a helpful assistant.", "-p")
    environ = {**agent.environ, "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "32"}
    done = run(Agent(agent.package, agent.program, agent.route, short, environ), tmp_path, "Say hello.")
    assert answered(chat_server)[-1] == ("/v1/messages", 200)
    assert done.stdout.strip(), done.stderr


def test_every_agent_is_pinned() -> None:
    names = {path.parent.name for path in REQUIREMENTS.glob("*/package-lock.json")}
    assert names == {agent.package for agent in agents("").values()}


@pytest.mark.parametrize("name", [path.parent.name for path in sorted(REQUIREMENTS.glob("*/package.json"))])
def test_the_page_names_the_agents_that_are_pinned(name: str) -> None:
    page = (ROOT / "docs" / "clients.md").read_text()
    (package, version), *_ = json.loads((REQUIREMENTS / name / "package.json").read_text())["dependencies"].items()
    assert f"| `{package}` {version} |" in page
