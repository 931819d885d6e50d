"""TGI's executables under their names: `python -m container.tgi_commands text-generation-launcher [ARGUMENT ...]`.

The launcher serves. `text-generation-server` serves too, and downloads. The benchmark measured TGI's own engine, which
is not here. Exit codes: those of container/serve.py; 2 for a command that does not exist here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from container import serve
from container.settings import Settings, SettingsError
from container.supervisor import launcher
from container.supervisor.information import information, launcher_usage
from handler.seam.errors import BadConfiguration

_SERVER_USAGE = """usage: text-generation-server COMMAND [ARGUMENT ...]

  serve MODEL_ID [ARGUMENT ...]       serve a model; arguments as of text-generation-launcher
  download-weights MODEL_ID [--revision REVISION] [--trust-remote-code]
                                      download a model into the hub's cache
  --help, --version, --env"""
_BENCHMARK_USAGE = """usage: text-generation-benchmark --help | --version | --env

Nothing else: it measured TGI's engine from inside. Measure this server over HTTP, with any client that speaks OpenAI's
or TGI's routes."""
# Options of TGI's download-weights that make no difference: only safetensors are loaded, and nothing is converted.
_WITHOUT_EFFECT = {"--extension": True, "--logger-level": True, "--auto-convert": False, "--no-auto-convert": False}
_WITHOUT_EFFECT |= {"--json-output": False, "--no-json-output": False, "--merge-lora": False, "--no-merge-lora": False}


def main(arguments: Sequence[str]) -> int:
    """Run the executable named by the first argument; return its exit code."""
    name, *rest = arguments or [""]
    commands: dict[str, tuple[str, Callable[[list[str]], int]]] = {
        "text-generation-launcher": (launcher_usage("text-generation-launcher"), serve.main),
        "text-generation-server": (_SERVER_USAGE, _server),
        "text-generation-benchmark": (_BENCHMARK_USAGE, _benchmark),
    }
    if name not in commands:
        return _refuse(f"the first argument is one of {', '.join(commands)}. Given: {name!r}")
    usage, run = commands[name]
    text = information(name, rest, usage)
    if text is None:
        return run(rest)
    sys.stdout.write(text + "\n")
    return 0


def _server(arguments: list[str]) -> int:
    match arguments:
        case ["serve", model, *rest] if not model.startswith("-"):
            return serve.main(["serve", "--model-id", model, *rest])
        case ["download-weights", *rest]:
            return _download(rest)
        case ["quantize", *_]:
            return _refuse("quantize is not here: HF_MODEL_QUANTIZE quantises while the model is loaded")
    return _refuse("text-generation-server takes `serve MODEL_ID` or `download-weights MODEL_ID`; see --help")


def _download(arguments: list[str]) -> int:
    """Become the process that downloads: only the engine's side may load the hub's client."""
    try:
        os.environ.update(launcher.read_arguments(["--model-id", *_with_effect(arguments)]))
        os.environ.update(launcher.translate(os.environ))
        settings = Settings.from_environ(os.environ)
    except SettingsError as exc:
        return _refuse(str(exc))
    # All names of a setting count here as they do for `serve`; the process reads the first.
    os.environ["HF_MODEL_REVISION"] = settings.revision or ""
    os.environ["HF_MODEL_TRUST_REMOTE_CODE"] = str(settings.trust_remote_code).lower()
    os.environ["CACHE_DIR"] = settings.cache_dir
    return os.execv(sys.executable, [sys.executable, "-m", "handler.download"])  # noqa: S606 - our own module


def _with_effect(arguments: list[str]) -> list[str]:
    """`arguments` without the options that make no difference, and without their values."""
    kept, rest = [], list(arguments)
    while rest:
        given = rest.pop(0)
        flag, has_value, _ = given.partition("=")
        if flag not in _WITHOUT_EFFECT:
            kept.append(given)
        elif _WITHOUT_EFFECT[flag] and not has_value and rest:
            rest.pop(0)
    return kept


def _benchmark(_arguments: list[str]) -> int:
    return _refuse("text-generation-benchmark is not here: measure this server over HTTP")


def _refuse(sentence: str) -> int:
    sys.stderr.write(sentence + "\n")
    return BadConfiguration.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
