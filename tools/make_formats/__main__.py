"""`python -m tools.make_formats [NAME...]`: write tests/data/formats, or the fixtures of these modules and names.

Runs in the environment of `make formats-fixtures`, which has the libraries of the forms. Each module here with
`WRITERS` writes fixtures. It has by folder name, which begins with the module's, a function that is given the dense
model (tools/make_formats/base.py) and an empty folder, and leaves config.json, the weights and expected.safetensors
there. `LIBRARIES` names the module's packages; their versions go into made_by.json. `MODELS`, if there, has for some
folder names the arguments of `base.save`, where the dense model is another one.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

from tools import make_formats
from tools.make_formats import base

FIXTURES = Path(__file__).resolve().parents[2] / "tests" / "data" / "formats"
_ALWAYS = ("torch", "transformers")
# What else a library writes is of no use to the tests.
_KEPT = {".json", ".safetensors", ".gguf"}


def main(names: list[str]) -> int:
    """Write the fixtures of the modules and folders named, or all. Returns the exit code."""
    unknown = set(names)
    for module, name in _fixtures(names):
        unknown -= {module.__name__.rpartition(".")[2], name}
        _make(module, name)
        sys.stdout.write(f"{name}: {sum(path.stat().st_size for path in (FIXTURES / name).iterdir())} bytes\n")
    sys.stderr.write("".join(f"no fixture is called {name}\n" for name in sorted(unknown)))
    return 1 if unknown else 0


def _fixtures(names: list[str]) -> Iterator[tuple[ModuleType, str]]:
    """Module and folder of each fixture wanted. Modules of others are not imported."""
    for module in (each.name for each in pkgutil.iter_modules(make_formats.__path__)):
        if module == "__main__" or (names and not any(name.startswith(module) for name in names)):
            continue
        found = importlib.import_module(f"{make_formats.__name__}.{module}")
        yield from (
            (found, name) for name in getattr(found, "WRITERS", {}) if not names or module in names or name in names
        )


def _make(module: ModuleType, name: str) -> None:
    """A writer that fails leaves the fixture as it was."""
    with TemporaryDirectory() as temporary, TemporaryDirectory(dir=FIXTURES.parent, prefix=".formats-") as beside:
        dense = base.save(Path(temporary), **getattr(module, "MODELS", {}).get(name, {}))
        target = Path(beside, name)
        target.mkdir()
        _write(module, name, dense, target)
        shutil.rmtree(FIXTURES / name, ignore_errors=True)
        target.rename(FIXTURES / name)


def _write(module: ModuleType, name: str, dense: Path, target: Path) -> None:
    module.WRITERS[name](dense, target)
    versions = {package: version(package) for package in (*module.LIBRARIES, *_ALWAYS)}
    (target / "made_by.json").write_text(json.dumps(versions, indent=2) + "\n", "utf-8")
    for path in target.iterdir():
        if path.suffix not in _KEPT:
            path.unlink()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
