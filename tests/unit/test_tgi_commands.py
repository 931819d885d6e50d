"""TGI's executables under their names: what they print, what they run and what they refuse."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from container import serve, tgi_commands
from container.settings import Settings
from handler import download

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("text-generation-launcher", "text-generation-server", "text-generation-benchmark")
QUESTIONS = ("--help", "-h", "--version", "-V", "--env", "-e")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ) | {"API_KEY": "Secret"})


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The arguments the server was started with."""
    calls: list[list[str]] = []
    monkeypatch.setattr(serve, "main", lambda arguments: calls.append(arguments) or 0)
    return calls


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_questions_are_answered_with_0(
    program: str, question: str, served: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert tgi_commands.main([program, question]) == 0
    found = capsys.readouterr()
    wanted = {"h": "usage: " + program, "V": program + " ", "v": program + " ", "e": "transformers: "}
    assert wanted["V" if question in {"-V", "--version"} else question.strip("-")[0]] in found.out
    assert not found.err
    assert "Secret" not in found.out
    assert not served


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["serve", "--port", "80", "-h"]])
def test_serve_has_help_with_every_setting(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert serve.main(arguments) == 0
    text = capsys.readouterr().out
    assert "--model-id VALUE" in text
    assert not [name for item in fields(Settings) for name in item.metadata["names"] if name not in text]


def test_a_value_is_no_question(served: list[list[str]]) -> None:
    arguments = ["--model-id", "--help", "--api-key", "-e"]
    assert tgi_commands.main(["text-generation-launcher", *arguments]) == 0
    assert served == [arguments]


def test_the_server_serves(served: list[list[str]]) -> None:
    assert tgi_commands.main(["text-generation-server", "serve", "a/b", "--port", "81"]) == 0
    assert served == [["serve", "--model-id", "a/b", "--port", "81"]]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["text-generation-server"], "takes `serve MODEL_ID` or `download-weights MODEL_ID`"),
        (["text-generation-server", "quantize", "a", "b"], "HF_MODEL_QUANTIZE"),
        (["text-generation-server", "download-weights"], "--model-id takes a value"),
        (["text-generation-server", "download-weights", "a/b", "--revison", "x"], "Given: --revison"),
        (["text-generation-benchmark", "--tokenizer-name", "x"], "over HTTP"),
        (["text-generation-router"], "Given: 'text-generation-router'"),
        ([], "Given: ''"),
    ],
)
def test_anything_else_is_refused_with_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tgi_commands.main(arguments) == 2
    assert sentence in capsys.readouterr().err


def test_download_weights_finds_the_model(tiny_llama: Path) -> None:
    """A directory is found as a hub model would be; the hub itself is out of reach here."""
    options = ["--extension", ".safetensors", "--auto-convert", "--trust-remote-code", "--logger-level=INFO"]
    command = [sys.executable, "-m", "container.tgi_commands", "text-generation-server", "download-weights"]
    run = subprocess.run([*command, str(tiny_llama), *options], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.strip()) == (0, str(tiny_llama))
    missing = subprocess.run([*command, "/nowhere"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert missing.returncode == 3
    assert "neither a directory" in missing.stderr


def test_every_name_of_a_setting_counts_for_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    os.environ.update(TRUST_REMOTE_CODE="1", REVISION="old")
    monkeypatch.setattr(os, "execv", lambda *_: 0)
    assert tgi_commands.main(["text-generation-server", "download-weights", "a/b", "--revision", "r"]) == 0
    names = ("HF_MODEL_ID", "HF_MODEL_REVISION", "HF_MODEL_TRUST_REMOTE_CODE")
    assert [os.environ[name] for name in names] == ["a/b", "r", "true"]


def test_a_download_takes_revision_and_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(download, "locate", lambda config, _: seen.append(config) or (Path("/m"), "m"))
    environ = {"HF_MODEL_ID": "a/b", "HF_MODEL_REVISION": "r", "HF_MODEL_TRUST_REMOTE_CODE": "true"}
    assert download.main(environ) == 0
    assert (seen[0].model, seen[0].revision, seen[0].trust_remote_code) == ("a/b", "r", True)


def test_the_image_has_the_executables_by_name() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert "for name in launcher server benchmark; do" in text
    assert "container.tgi_commands text-generation-%s" in text
    assert 'container.serve serve "$@"' in text
    assert all(f"COPY --from=app /usr/local/bin/{program} /usr/local/bin/" in text for program in PROGRAMS)
