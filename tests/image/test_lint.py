"""Each rule of the linter: broken by a small change to the real Dockerfile, kept by the Dockerfile itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.image_check import lint
from tools.image_check.dockerfile import parse

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Dockerfile").read_text()


def faults(text: str) -> str:
    return "\n".join(lint.check(parse(text, {})))


def test_the_dockerfile_keeps_every_rule() -> None:
    assert faults(TEXT) == ""


@pytest.mark.needs("hadolint")
def test_the_dockerfile_keeps_hadolints_rules() -> None:
    assert lint.hadolint(ROOT / "Dockerfile") == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('ENTRYPOINT ["/opt/venv/bin/python", "-m", "container.serve"]', "ENTRYPOINT python -m x", "exec form"),
        ('ENTRYPOINT ["/opt', 'ENTRYPOINT ["/usr/bin/tini", "/opt', "confuses"),
        ("python:3.11.15-slim-bookworm", "python:latest", "no fixed tag"),
        ("python:3.11.15-slim-bookworm", "registry:5000/python", "no fixed tag"),
        ("COPY LICENSE", "ADD https://example.org/x /x\nCOPY LICENSE", "use COPY"),
        (
            "WORKDIR /app\nCOPY handler/",
            "RUN curl -s https://x | sh\nWORKDIR /app\nCOPY handler/",
            "piped into a shell",
        ),
        ("WORKDIR /app\nCOPY handler/", "RUN apt-get install -y git\nWORKDIR /app\nCOPY handler/", "lists remain"),
        ("WORKDIR /app\nCOPY handler/", "RUN apt-get install -y g++\nWORKDIR /app\nCOPY handler/", "compiler"),
        ("install --no-cache-dir --require-hashes -r", "install --require-hashes -r", "--no-cache-dir"),
        ("--no-cache-dir --require-hashes -r", "--no-cache-dir -r", "neither --require-hashes"),
        ("EXPOSE 8080", "EXPOSE 80", "EXPOSE 8080"),
        ('accept-bind-to-port="true"', 'accept-bind-to-port="false"', "accept-bind-to-port=true"),
        ("PORT=8080", "PORT=8080 HF_TOKEN=hf_x", "readable"),
        ("ARG VERSION", "ARG API_KEY\nARG VERSION", "readable"),
        ("WORKDIR /app\nEXPOSE", "RUN true\nWORKDIR /app\nEXPOSE", "only copy"),
    ],
)
def test_each_rule_finds_its_fault(old: str, new: str, fault: str) -> None:
    assert old in TEXT
    assert fault in faults(TEXT.replace(old, new))


def test_one_stage_alone_is_a_fault() -> None:
    last = "FROM python:3.11.15-slim-bookworm\n" + TEXT.rpartition("\nFROM ")[2].partition("\n")[2]
    assert "a single stage" in faults(last.replace("COPY --from", "# COPY --from"))


def test_a_base_by_digest_needs_no_tag() -> None:
    assert faults(TEXT.replace("python:3.11.15-slim-bookworm", "python@sha256:" + "0" * 64)) == ""
