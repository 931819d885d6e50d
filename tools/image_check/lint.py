"""Rules for the Dockerfile's text: SageMaker's, this project's, and hadolint's if it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tools.image_check.dockerfile import Instruction, Stage

BIND_LABEL = "com.amazonaws.sagemaker.capabilities.accept-bind-to-port"
_LABELS = {BIND_LABEL: "true", "org.opencontainers.image.title": "", "org.opencontainers.image.licenses": ""}
_COMPILERS = re.compile(r"\b(gcc|clang|cpp|make|cmake|build-essential|\w+-dev|rustc|cargo|nvcc)\b|\bg\+\+")
_SECRET = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|CREDENTIAL)", re.IGNORECASE)
_PIPED_TO_SHELL = re.compile(r"\b(curl|wget)\b[^;&]*\|\s*(?:sudo\s+)?(?:ba|da|z)?sh\b")

Found = Iterator[tuple[int, str]]
Rule = Callable[[list[Stage]], Found]


def check(stages: list[Stage]) -> list[str]:
    """The broken rules as "line N: ..." sentences, in the order of the rules."""
    return [f"line {line}: {text}" for rule in RULES for line, text in rule(stages)]


def hadolint_program() -> str:
    """Path of hadolint, which requirements/image-tools.txt installs; "" if it is missing."""
    beside = Path(sys.executable).with_name("hadolint")
    return str(beside) if beside.is_file() else shutil.which("hadolint") or ""


def hadolint(path: Path) -> list[str]:
    """hadolint's findings, one line each; empty if it is not installed."""
    program = hadolint_program()
    if not program:
        return []
    done = subprocess.run([program, "--no-color", str(path)], capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).splitlines()


def _entrypoint(stages: list[Stage]) -> Found:
    """The shell form runs /bin/sh as first process, which does not forward SIGTERM."""
    entry = stages[-1].last("ENTRYPOINT")
    if entry is None or not entry.exec_form():
        yield (entry.line if entry else stages[-1].line), "the last stage needs an ENTRYPOINT in exec form"
    elif Path(entry.exec_form()[0]).name in {"tini", "dumb-init", "sh", "bash"}:  # type: ignore[index]
        yield entry.line, "SageMaker's argument `serve` confuses init programs and shells"


def _bases(stages: list[Stage]) -> Found:
    names = {stage.name for stage in stages}
    for stage in stages:
        image, _, digest = stage.base.partition("@")
        tag = image.rpartition("/")[2].partition(":")[2]
        if stage.base not in names and not digest and tag in {"", "latest"}:
            yield stage.line, f"{stage.base} has no fixed tag"


def _no_add(stages: list[Stage]) -> Found:
    for item in _all(stages, "ADD"):
        yield item.line, "ADD downloads and unpacks; use COPY"


def _pipes(stages: list[Stage]) -> Found:
    for item in _all(stages, "RUN"):
        if _PIPED_TO_SHELL.search(item.text):
            yield item.line, "a download is piped into a shell"


def _apt(stages: list[Stage]) -> Found:
    for item in _all(stages, "RUN"):
        if re.search(r"\bapt(-get)?\s+(-\S+\s+)*install\b", item.text):
            if "--no-install-recommends" not in item.text:
                yield item.line, "apt-get install without --no-install-recommends"
            if "rm -rf /var/lib/apt/lists" not in item.text:
                yield item.line, "apt's lists remain in the layer"


def _pip(stages: list[Stage]) -> Found:
    for item in _all(stages, "RUN"):
        for command in re.split(r"&&|;", item.text):
            if re.search(r"\bpip3?\s+install\b", command):
                if "--no-cache-dir" not in command:
                    yield item.line, "pip install without --no-cache-dir"
                if "--require-hashes" not in command and "--index-url" not in command:
                    yield item.line, "pip install with neither --require-hashes nor --index-url"


def _port(stages: list[Stage]) -> Found:
    if not any(item.words() == ["8080"] for item in stages[-1].instructions if item.name == "EXPOSE"):
        yield stages[-1].line, "the last stage needs EXPOSE 8080"


def _label(stages: list[Stage]) -> Found:
    labels = stages[-1].labels()
    for name, value in _LABELS.items():
        if not labels.get(name) or (value and labels[name] != value):
            yield stages[-1].line, f"the last stage needs the label {name}{'=' + value if value else ''}"


def _secrets(stages: list[Stage]) -> Found:
    for item in [*_all(stages, "ENV"), *_all(stages, "ARG")]:
        for name in item.pairs():
            if _SECRET.search(name):
                yield item.line, f"{name} would remain readable in the image"


def _last_stage_installs_nothing(stages: list[Stage]) -> Found:
    for item in stages[-1].instructions:
        if item.name == "RUN":
            yield item.line, "RUN in the last stage, which should only copy"
    if len(stages) < 2:
        yield stages[-1].line, "a single stage keeps its build tools"
    for item in _all(stages, "RUN"):
        if re.search(r"\bapt(-get)?\b.*\binstall\b", item.text) and _COMPILERS.search(item.text):
            yield item.line, "a compiler is installed; every package must be a wheel"


RULES: tuple[Rule, ...] = (
    _entrypoint,
    _bases,
    _no_add,
    _pipes,
    _apt,
    _pip,
    _port,
    _label,
    _secrets,
    _last_stage_installs_nothing,
)


def _all(stages: list[Stage], name: str) -> Iterator[Instruction]:
    return (item for stage in stages for item in stage.instructions if item.name == name)
