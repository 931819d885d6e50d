"""Parses a Dockerfile into stages of instructions, with variables replaced.

Supports the part of the language that this project's Dockerfile uses and refuses the rest with the line number, so that
nothing is skipped silently. Source: https://docs.docker.com/reference/dockerfile/.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_KNOWN = {"FROM", "ARG", "ENV", "LABEL", "COPY", "RUN", "WORKDIR", "EXPOSE", "USER", "ENTRYPOINT", "CMD", "ADD"}
# RUN is left to the shell; the exec forms keep their JSON.
_EXPANDED = {"FROM", "ARG", "ENV", "LABEL", "COPY", "ADD", "WORKDIR", "EXPOSE", "USER"}
_VARIABLE = re.compile(r"\$(?:\{(?P<braced>\w+)\}|(?P<bare>\w+))")


class DockerfileError(ValueError):
    """The file cannot be parsed; the message names the line."""


@dataclass(frozen=True)
class Instruction:
    """One instruction. `text` is everything after the name, with continuation lines joined and variables replaced."""

    name: str
    text: str
    line: int

    def words(self) -> list[str]:
        """The arguments as the builder splits them, quotes removed."""
        return shlex.split(self.text)

    def exec_form(self) -> list[str] | None:
        """The JSON list of an ENTRYPOINT, CMD or RUN in exec form, else None."""
        try:
            found = json.loads(self.text)
        except ValueError:
            return None
        return found if isinstance(found, list) and all(isinstance(word, str) for word in found) else None

    def pairs(self) -> dict[str, str]:
        """KEY=value of ENV, LABEL or ARG; an ARG without a value maps to ""."""
        return {key: value for key, _, value in (word.partition("=") for word in self.words())}

    def copied(self) -> tuple[str, list[str], str]:
        """COPY's stage ("" is the build context), sources and destination."""
        words = self.words()
        stage = ""
        if words and words[0].startswith("--from="):
            stage = words.pop(0).removeprefix("--from=")
        if len(words) < 2 or any(word.startswith("--") for word in words):
            raise DockerfileError(f"line {self.line}: COPY with options other than --from is not supported")
        return stage, words[:-1], words[-1]


@dataclass
class Stage:
    """One FROM and the instructions after it. `arguments` and `environment` are those in effect at its end."""

    name: str
    base: str
    line: int
    instructions: list[Instruction] = field(default_factory=list)
    arguments: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    def last(self, name: str) -> Instruction | None:
        """The last instruction of that name, which is the one in effect; None if there is none."""
        return next((item for item in reversed(self.instructions) if item.name == name), None)

    def labels(self) -> dict[str, str]:
        """All labels of the stage."""
        return {k: v for item in self.instructions if item.name == "LABEL" for k, v in item.pairs().items()}


def read(path: Path, build_arguments: Mapping[str, str] | None = None) -> list[Stage]:
    """The stages of the file, with ARG, ENV and build arguments applied. Raises DockerfileError."""
    return parse(path.read_text(), build_arguments or {})


def parse(text: str, build_arguments: Mapping[str, str]) -> list[Stage]:
    """As `read`, from text."""
    outer: dict[str, str] = {}
    stages: list[Stage] = []
    for name, raw, line in _logical_lines(text):
        scope = outer if not stages or name == "FROM" else _scope(stages)
        item = Instruction(name, _expanded(raw, scope) if name in _EXPANDED else raw, line)
        if name == "FROM":
            stages.append(_stage(item, stages))
        elif stages:
            _apply(item, stages[-1], outer, build_arguments)
        elif name == "ARG":
            outer |= {key: build_arguments.get(key, value) for key, value in item.pairs().items()}
        else:
            raise DockerfileError(f"line {line}: {name} before the first FROM")
    if not stages:
        raise DockerfileError("no FROM")
    return stages


def find(stages: list[Stage], name: str) -> Stage | None:
    """The stage of that name, or None if `name` is an image."""
    return next((stage for stage in stages if stage.name == name), None)


def _logical_lines(text: str) -> Iterator[tuple[str, str, int]]:
    """(name, arguments, line number) without comments, continuation lines joined."""
    parts: list[str] = []
    first = 0
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("#") or not line.strip():
            continue
        first = first if parts else number
        parts.append(line.strip().removesuffix("\\").strip())
        if line.rstrip().endswith("\\"):
            continue
        name, _, rest = " ".join(parts).partition(" ")
        parts = []
        if name.upper() not in _KNOWN or "<<" in rest:
            raise DockerfileError(f"line {first}: {name} is not supported")
        yield name.upper(), rest.strip(), first
    if parts:
        raise DockerfileError(f"line {first}: the last line is continued")


def _stage(item: Instruction, earlier: list[Stage]) -> Stage:
    words = item.words()
    if len(words) not in {1, 3} or (len(words) == 3 and words[1].upper() != "AS"):
        raise DockerfileError(f"line {item.line}: FROM with options is not supported")
    parent = find(earlier, words[0])
    inherited = dict(parent.environment) if parent else {}
    return Stage(words[2] if len(words) == 3 else str(len(earlier)), words[0], item.line, environment=inherited)


def _apply(item: Instruction, stage: Stage, outer: Mapping[str, str], given: Mapping[str, str]) -> None:
    stage.instructions.append(item)
    if item.name == "ENV":
        stage.environment |= item.pairs()
    elif item.name == "ARG":
        for key, value in item.pairs().items():
            # A build argument overrides; an ARG without a value takes that from before the first FROM.
            stage.arguments[key] = given.get(key, value or outer.get(key, ""))


def _scope(stages: list[Stage]) -> dict[str, str]:
    """The variables that a stage's next instruction sees; ENV overrides ARG."""
    return {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"} | (
        stages[-1].arguments | stages[-1].environment
    )


def _expanded(text: str, scope: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda found: scope.get(found["braced"] or found["bare"], ""), text)
