"""Who may import what. Each rule runs the real imports in a fresh interpreter."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import container
import handler

ROOT = Path(container.__file__).resolve().parent.parent
PURE = [
    "protocol",
    "status",
    "config",
    "sequence",
    "scheduler",
    "kv_manager",
    "siblings",
    "slot_prefixes",
    "prefix_index",
    "block_manager",
    "stopping",
    "randomness",
    "errors",
    "lifeline",
    "suspects",
    "pace",
    "custody",
    "logs",
]
# The only modules of the model side that the web side may name.
SHARED = {f"handler.{name}" for name in ("protocol", "status", "config", "lifeline", "suspects", "logs")}


def modules(package: object) -> list[str]:
    prefix = package.__name__ + "."  # type: ignore[attr-defined]
    return [m.name for m in pkgutil.walk_packages(package.__path__, prefix) if "__main__" not in m.name]  # type: ignore[attr-defined]


def imported_by(names: list[str]) -> set[str]:
    code = f"import sys, importlib\nfor n in {names!r}: importlib.import_module(n)\nprint('\\n'.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(run.stdout.split())


def test_the_web_side_imports_no_torch_and_no_transformers() -> None:
    found = imported_by(modules(container))
    assert "container.api.openai.routes" in found
    assert not found & {"torch", "transformers", "accelerate", "bitsandbytes", "numpy", "scipy", "pickle5"}


def test_the_pure_modules_import_no_library_but_msgspec() -> None:
    found = imported_by([f"handler.{name}" for name in PURE])
    assert not {name.split(".")[0] for name in found} & {"torch", "transformers", "zmq", "flask", "gevent", "numpy"}


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("path", sorted((ROOT / "container").rglob("*.py")), ids=str)
def test_the_web_side_names_only_the_shared_modules(path: Path) -> None:
    assert {n for n in imports(path) if n.split(".")[0] == "handler"} <= SHARED


@pytest.mark.parametrize("path", sorted((ROOT / "handler").rglob("*.py")), ids=str)
def test_the_model_side_never_names_the_web_side(path: Path) -> None:
    assert not {n for n in imports(path) if n.split(".")[0] in {"container", "flask", "gevent"}}


DIALECTS = {path.parent.name for path in (ROOT / "container" / "api").glob("*/__init__.py")} - {"documents"}


def names_in(directory: Path, dialects: set[str]) -> set[str]:
    """Modules of `dialects` that files below `directory` import, `from container.api import tgi` among them."""
    found = set()
    for path in directory.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "container.api":
                found |= {f"container.api.{alias.name}" for alias in node.names}
        found |= imports(path)
    return {name for name in found if name.split(".")[:2] == ["container", "api"] and name.split(".")[2:3] and
            name.split(".")[2] in dialects}  # fmt: skip


@pytest.mark.parametrize("dialect", sorted(DIALECTS - {"sagemaker"}))
def test_no_dialect_knows_another(dialect: str) -> None:
    """But SageMaker's, whose contract is to tell the others' bodies apart."""
    assert not names_in(ROOT / "container" / "api" / dialect, DIALECTS - {dialect})


def test_nothing_outside_knows_a_dialect() -> None:
    outside = [path for path in (ROOT / "container").iterdir() if path.name != "api"]
    outside += [ROOT / "container" / "api" / "documents", ROOT / "handler"]
    single = [path for path in [*outside, *(ROOT / "container" / "api").iterdir()] if path.suffix == ".py"]
    for path in single:
        assert not [n for n in imports(path) if n.startswith(tuple(f"container.api.{d}" for d in DIALECTS))], path
    for directory in (path for path in outside if path.is_dir()):
        assert not names_in(directory, DIALECTS), directory


@pytest.mark.parametrize("package", [container, handler])
def test_no_pickle_and_no_eval(package: object) -> None:
    for path in Path(package.__file__).parent.rglob("*.py"):  # type: ignore[attr-defined]
        assert not imports(path) & {"pickle", "marshal", "shelve", "dill", "cloudpickle"}, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec"}, path
