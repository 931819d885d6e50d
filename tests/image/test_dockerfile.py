"""The Dockerfile reader parses a subset of the syntax and refuses everything else."""

from __future__ import annotations

import pytest

from tools.image_check.dockerfile import DockerfileError, Instruction, find, parse

TWO_STAGES = """\
# syntax=docker/dockerfile:1
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS build
ARG KIND=cuda
ARG INDEX=https://example.org/${KIND}
ENV A=1 B="two words" \\
    # a comment inside
    C=$KIND
RUN echo "${A}" \\
 && echo done
FROM build AS more
COPY a b/ /dest/
FROM $BASE
ARG BASE
LABEL base="${BASE}"
ENV PATH=/opt/bin:$PATH
ENTRYPOINT ["/bin/x", "-m", "y"]
"""


def test_stages_their_names_and_bases() -> None:
    stages = parse(TWO_STAGES, {})
    assert [(s.name, s.base) for s in stages] == [
        ("build", "python:3.11-slim-bookworm"),
        ("more", "build"),
        ("2", "python:3.11-slim-bookworm"),
    ]
    assert find(stages, "more") is stages[1]
    assert find(stages, "python:3.11-slim-bookworm") is None


def test_variables_are_replaced_but_for_the_shells() -> None:
    build = parse(TWO_STAGES, {})[0]
    assert build.environment == {"A": "1", "B": "two words", "C": "cuda"}
    assert build.arguments == {"KIND": "cuda", "INDEX": "https://example.org/cuda"}
    run = build.last("RUN")
    assert run == Instruction("RUN", 'echo "${A}" && echo done', 9)


def test_build_arguments_win_over_defaults_in_every_scope() -> None:
    stages = parse(TWO_STAGES, {"BASE": "python:3.11-slim-trixie", "KIND": "cpu"})
    assert stages[0].base == stages[2].base == "python:3.11-slim-trixie"
    assert stages[0].arguments["INDEX"] == "https://example.org/cpu"
    assert stages[2].labels() == {"base": "python:3.11-slim-trixie"}


def test_a_stage_inherits_environment_but_no_arguments() -> None:
    more = parse(TWO_STAGES, {})[1]
    assert more.environment["C"] == "cuda"
    assert more.arguments == {}


def test_path_is_extended_from_the_base_images() -> None:
    assert parse(TWO_STAGES, {})[2].environment["PATH"].startswith("/opt/bin:/usr/local/bin:")


def test_exec_form_and_shell_form() -> None:
    entry = parse(TWO_STAGES, {})[2].last("ENTRYPOINT")
    assert entry is not None
    assert entry.exec_form() == ["/bin/x", "-m", "y"]
    assert Instruction("ENTRYPOINT", "python -m y", 1).exec_form() is None
    assert Instruction("ENTRYPOINT", "[1, 2]", 1).exec_form() is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b /dest/", ("", ["a", "b"], "/dest/")),
        ("--from=build /opt/venv /opt/venv", ("build", ["/opt/venv"], "/opt/venv")),
    ],
)
def test_copy(text: str, expected: tuple[str, list[str], str]) -> None:
    assert Instruction("COPY", text, 1).copied() == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "RUN true",
        "FROM a\nHEALTHCHECK CMD x",
        "FROM a\nRUN <<EOF",
        "FROM --platform=linux/amd64 a",
        "FROM a\nRUN true \\",
    ],
)
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(DockerfileError):
        parse(text, {})


@pytest.mark.parametrize("text", ["--chmod=755 a b", "a"])
def test_copy_with_other_options_is_refused(text: str) -> None:
    with pytest.raises(DockerfileError, match="line 7"):
        Instruction("COPY", text, 7).copied()
