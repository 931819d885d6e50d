"""`python -m tools.client_locks [NAME...]`: pins the newest clients for `make test-clients`, and all they need.

Writes requirements/clients/*.txt, one for each environment, for the running interpreter: CPython 3.11 on Linux.
After that write the new versions into docs/clients.md; a test compares.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tools.image_check.lock import normalised

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements" / "clients"
# Environment -> packages asked for, the first of which is the client.
CLIENTS = {
    "aiperf": ("aiperf",),
    "anthropic": ("anthropic",),
    "dspy": ("dspy",),
    # The torch of our own environment, of which the index has a CPU build.
    "guidellm": ("guidellm", "torch==2.13.0"),
    "haystack-ai": ("haystack-ai",),
    "inspect-ai": ("inspect-ai", "openai"),
    "instructor": ("instructor",),
    "langchain-openai": ("langchain-openai",),
    "litellm": ("litellm",),
    "llama-index": ("llama-index-llms-openai-like", "llama-index-llms-huggingface-api"),
    # Wants an older llama-index-core than the others.
    "llama-index-tgi": ("llama-index-llms-text-generation-inference",),
    # Of transformers the tokenizers alone: no torch.
    "lm-eval": ("lm-eval[api]", "transformers"),
    "openai": ("openai",),
    "openai-agents": ("openai-agents",),
    "pydantic-ai": ("pydantic-ai-slim[openai,anthropic]",),
    "smolagents": ("smolagents[openai]",),
    "text-generation": ("text-generation",),
}


def pins(report: dict[str, Any]) -> str:
    """A line for each package in the output of `pip install --report`, sorted, without the builds of local versions."""
    found = {normalised(item["metadata"]["name"]): item["metadata"]["version"] for item in report["install"]}
    return "".join(f"{name}=={version.partition('+')[0]}\n" for name, version in sorted(found.items()))


def pinned(name: str) -> dict[str, str]:
    """Package -> version of an environment, as its file says."""
    lines = (REQUIREMENTS / f"{name}.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def main(names: list[str]) -> int:
    """Write the files of these environments, or of all."""
    for name in names or CLIENTS:
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--dry-run",
            "--ignore-installed",
            "--report",
            "-",
        ]
        done = subprocess.run([*command, *CLIENTS[name]], stdout=subprocess.PIPE, check=True)
        header = "# Made by `python -m tools.client_locks`; do not edit.\n"
        (REQUIREMENTS / f"{name}.txt").write_text(header + pins(json.loads(done.stdout)))
        sys.stdout.write(f"{name}: {len(pinned(name))} packages\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
