"""How each command-line agent is pointed at this server: its files, its environment, its command line.

No agent may ask a host that is not this machine, or look for a newer release of itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.server import ROOT

ENVIRONMENTS = ROOT / ".venv-clients" / "node"
KEY = "a-dummy"
MODEL = "quick"
# Of an answer; the agents' own defaults go up to 128,000.
MAX_TOKENS = 4000


@dataclass(frozen=True)
class Agent:
    """One agent and one door. `arguments` come before the prompt; `files` are below its home."""

    package: str
    program: str
    route: str
    arguments: tuple[str, ...]
    environ: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    def command(self, prompt: str) -> list[str]:
        """The command line."""
        return [str(self.programs / self.program), *self.arguments, prompt]

    def environment(self, home: Path) -> dict[str, str]:
        """Nothing of this machine's but where programs are. A package may bring a Node of its own."""
        path = os.pathsep.join([str(self.programs), os.environ["PATH"]])
        return {"PATH": path, "HOME": str(home), "DO_NOT_TRACK": "1", **self.environ}

    @property
    def programs(self) -> Path:
        """Where npm has put the agent's program."""
        return ENVIRONMENTS / self.package / "node_modules" / ".bin"


def agents(url: str) -> dict[str, Agent]:
    """Each agent by the name of its test, for a server at `url`."""
    doors = {
        "@ai-sdk/openai-compatible": "/v1/chat/completions",
        "@ai-sdk/openai": "/v1/responses",
        "@ai-sdk/anthropic": "/v1/messages",
    }
    by_opencode = {f"opencode {route}": _opencode(url, npm, route) for npm, route in doors.items()}
    return {"codex": _codex(url), "claude-code": _claude_code(url), "qwen-code": _qwen_code(url)} | by_opencode


def _codex(url: str) -> Agent:
    config = f"""
model = "{MODEL}"
model_provider = "heir"
model_context_window = 100000
check_for_update_on_startup = false

[model_providers.heir]
name = "heir"
base_url = "{url}/v1"
wire_api = "responses"
env_key = "HEIR_KEY"

[analytics]
enabled = false

[feedback]
enabled = false

[features]
apps = false
plugins = false
"""
    return Agent(
        package="codex",
        program="codex",
        route="/v1/responses",
        # Its own sandbox wants rights that a container may not give.
        arguments=("exec", "--skip-git-repo-check", "--sandbox", "danger-full-access"),
        environ={"HEIR_KEY": KEY},
        files={".codex/config.toml": config},
    )


def _claude_code(url: str) -> Agent:
    return Agent(
        package="claude-code",
        program="claude",
        route="/v1/messages",
        arguments=("--allowedTools=Bash", "-p"),
        environ={
            "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_API_KEY": KEY,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_TELEMETRY": "1",
        },
    )


def _qwen_code(url: str) -> Agent:
    return Agent(
        package="qwen-code",
        program="qwen",
        route="/v1/chat/completions",
        arguments=("--auth-type", "openai", "--yolo", "-p"),
        environ={
            "OPENAI_BASE_URL": f"{url}/v1",
            "OPENAI_API_KEY": KEY,
            "OPENAI_MODEL": MODEL,
            # Its default of 32,000 is refused where prompt and answer do not fit together.
            "QWEN_CODE_MAX_OUTPUT_TOKENS": str(MAX_TOKENS),
            "QWEN_TELEMETRY_ENABLED": "false",
            "QWEN_CODE_SUPPRESS_YOLO_WARNING": "1",
        },
        files={".qwen/settings.json": json.dumps({"privacy": {"usageStatisticsEnabled": False}})},
    )


def _opencode(url: str, npm: str, route: str) -> Agent:
    model = {"name": MODEL, "limit": {"context": 100_000, "output": MAX_TOKENS}}
    config: dict[str, Any] = {
        "autoupdate": False,
        "share": "disabled",
        "model": f"heir/{MODEL}",
        "small_model": f"heir/{MODEL}",
        "permission": {"bash": "allow"},
        "provider": {
            "heir": {"npm": npm, "options": {"baseURL": f"{url}/v1", "apiKey": KEY}, "models": {MODEL: model}}
        },
    }
    return Agent(
        package="opencode",
        program="opencode",
        route=route,
        arguments=("run",),
        environ={
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
            "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
            "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
        },
        files={".config/opencode/opencode.json": json.dumps(config)},
    )
