"""Who may import what. The tables are the rules; each is seen to fail on an import that breaks it."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import pytest

import container
import handler
import model_memory
import sagemaker_deploy

ROOT = Path(container.__file__).resolve().parent.parent
PACKAGES = ("container", "handler", "model_memory", "sagemaker_deploy", "tools")

_WEB_ROOMS = ("api", "generation", "monitoring", "serving", "supervisor", "text", "web")
_DEPLOY_ROOMS = ("aws", "sizing", "calling", "checking")

# Never: whatever lies under the first imports whatever lies under the second.
FORBIDDEN = [
    *(("handler.seam", f"handler.{room}") for room in ("engine", "kernels", "linears", "formats", "model", "runners")),
    *(("handler", name) for name in ("container", "sagemaker_deploy", "flask", "gevent")),
    # Stored forms are read without the packages that wrote them.
    *(("handler", name) for name in ("auto_round", "awq", "compressed_tensors", "gptqmodel", "hqq", "kernels")),
    *(("handler", name) for name in ("llmcompressor", "optimum", "torchao")),
    *(("container", name) for name in ("sagemaker_deploy", "torch", "transformers")),
    # Only a hook's body of arrays is read with numpy, in the hook's process.
    *((f"container.{room}", "numpy") for room in (*_WEB_ROOMS, "app", "hooks.model")),
    *(
        (f"container.hooks.{room}", name)
        for room in ("model", "user_code")
        for name in ("flask", "gevent", "zmq", "container.api", "container.serving", "container.web")
    ),
    ("container.hooks.model", "container.hooks.user_code"),
    *(("sagemaker_deploy", name) for name in ("container", "handler", "torch", "transformers", "flask")),
    *(("model_memory", name) for name in ("container", "handler", "sagemaker_deploy", "torch", "msgspec")),
    ("container", "model_memory"),
    *(
        (f"handler.{room}", name)
        for room in ("seam", "scheduling", "speculation")
        for name in ("torch", "zmq", "numpy")
    ),
    *(("handler.speculation", f"handler.{room}") for room in ("sampling", "runners", "model")),
    ("handler.runners.slots", "handler.runners.paged"),
    ("handler.runners.slots", "handler.kernels.cuda"),
    *(("handler.kernels.cuda", name) for name in ("numba", "handler.kernels.compiler", "handler.kernels.vectors")),
    ("handler.runners.slots", "handler.runners.dynamic_cache"),
    ("handler.runners.paged", "handler.runners.slots"),
    ("handler.runners.paged", "handler.runners.dynamic_cache"),
    ("handler.runners.dynamic_cache", "handler.runners.slots"),
    ("handler.runners.dynamic_cache", "handler.runners.paged"),
    *(("container.supervisor", name) for name in ("flask", "gevent", "container.web", "container.api")),
    *(("container.generation", name) for name in ("flask", "container.web", "container.api")),
    *(("container.hooks", name) for name in ("flask", "container.web", "container.serving", "container.api")),
    # gevent patches no socket and no thread of the hook process.
    *((f"container.hooks.{room}", "gevent") for room in ("host", "model", "packages", "user_code")),
    *((f"container.hooks.{room}", "container.hooks.host") for room in ("model", "packages", "user_code")),
    ("container.supervisor", "container.hooks.host"),
    *(("container.text", name) for name in ("flask", "zmq", "container.web", "container.serving")),
    # Only `container.text.offload` decides what runs in gevent's pool.
    *((f"container.text.{name}", "gevent") for name in ("tokenizer", "chat_template", "detokenizer", "stop_strings")),
    *((f"container.serving.{name}", "flask") for name in ("admission", "concurrency", "model_watch", "queue_time")),
    *(("container.errors", f"container.{room}") for room in ("api", "serving", "web", "generation")),
    *(
        (f"sagemaker_deploy.{one}", f"sagemaker_deploy.{two}")
        for one, two in permutations(_DEPLOY_ROOMS, 2)
        if (one, two) != ("calling", "aws")
    ),
    ("sagemaker_deploy.deployment", "sagemaker_deploy.plan"),
    ("sagemaker_deploy.plan", "sagemaker_deploy.deployment"),
]
# A room imports nothing of the rooms that stand after it.
ORDERS = [
    ("handler.seam", "handler.scheduling", "handler.sampling", "handler.runners", "handler.engine", "handler.startup"),
    ("handler.seam", "handler.scheduling", "handler.speculation", "handler.engine", "handler.startup"),
    ("handler.seam", "handler.kernels", "handler.linears", "handler.formats", "handler.model", "handler.runners"),
    ("handler.model", "handler.runners", "handler.engine"),
    ("handler.seam", "handler.linears", "handler.adapters", "handler.runners", "handler.engine"),
    ("handler.model", "handler.adapters"),
    ("handler.scheduling", "handler.model"),
    (
        "container.text",
        "container.generation",
        "container.hooks",
        "container.monitoring",
        "container.web",
        "container.serving",
        "container.api",
        "container.app",
    ),
    *(
        (
            "sagemaker_deploy.errors",
            "sagemaker_deploy.request",
            f"sagemaker_deploy.{room}",
            command,
            "sagemaker_deploy.cli",
        )
        for room in _DEPLOY_ROOMS
        for command in ("sagemaker_deploy.deployment", "sagemaker_deploy.plan")
    ),
]
RULES = sorted(
    {*FORBIDDEN, *((low, high) for order in ORDERS for i, low in enumerate(order) for high in order[i + 1 :])}
)


def modules_below(package: str) -> dict[str, Path]:
    """Every module of a package, by name."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


MODULES = {name: path for package in PACKAGES for name, path in modules_below(package).items()}


def imported(path: Path) -> Iterator[str]:
    """What a file names in any import, also inside functions; `from package import module` is the module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                yield module if module in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


ARROWS = {(name, other) for name, path in MODULES.items() for other in imported(path) if other != name}


def below(name: str, room: str) -> bool:
    return name == room or name.startswith(room + ".")


def broken(rule: tuple[str, str], arrows: set[tuple[str, str]]) -> list[tuple[str, str]]:
    importer, other = rule
    return [(one, two) for one, two in sorted(arrows) if below(one, importer) and below(two, other)]


@pytest.mark.parametrize("rule", RULES, ids=" -> ".join)
def test_no_import_runs_against_the_rules(rule: tuple[str, str]) -> None:
    assert not broken(rule, ARROWS)
    wrong = (f"{rule[0]}.something", f"{rule[1]}.other")
    assert broken(rule, ARROWS | {wrong}) == [wrong]


def test_rules_name_what_there_is() -> None:
    rooms = {name for rule in RULES for name in rule if name.split(".")[0] in PACKAGES}
    assert rooms <= MODULES.keys()


def only_the_seam(arrows: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """Imports of the model side by the web side, beside `handler.seam`."""
    found = broken(("container", "handler"), arrows)
    return [(one, two) for one, two in found if not below(two, "handler.seam")]


def test_the_web_side_imports_nothing_of_the_model_side_but_the_seam() -> None:
    assert not only_the_seam(ARROWS)
    assert only_the_seam({("container.app", "handler.sampling.sampler"), ("container.app", "handler.seam.status")})


def circles(arrows: set[tuple[str, str]]) -> list[set[str]]:
    """Modules that import each other, directly or through others: what is left once all others are taken away."""
    left = {one for one, _ in arrows}
    while True:
        reached = {two for one, two in arrows if one in left and two in left}
        reaching = {one for one, two in arrows if one in left and two in left}
        if left == reached & reaching:
            return [left] if left else []
        left = reached & reaching


def test_there_are_no_circles_also_none_inside_functions() -> None:
    # A package is imported by all that lies in it; what counts is the modules that are named.
    assert not circles({(one, two) for one, two in ARROWS if two in MODULES})
    assert circles({("a", "b"), ("b", "c"), ("c", "b"), ("c", "d")}) == [{"b", "c"}]


def test_every_folder_says_its_rule_in_one_line() -> None:
    for path in MODULES.values():
        if path.name == "__init__.py":
            text = ast.get_docstring(ast.parse(path.read_text()))
            assert text, path
            assert text.splitlines()[0].endswith("."), path


def modules(package: object) -> list[str]:
    prefix = package.__name__ + "."  # type: ignore[attr-defined]
    return [m.name for m in pkgutil.walk_packages(package.__path__, prefix) if "__main__" not in m.name]  # type: ignore[attr-defined]


def imported_by(names: list[str]) -> set[str]:
    """What a fresh interpreter holds after these imports."""
    code = f"import sys, importlib\nfor n in {names!r}: importlib.import_module(n)\nprint('\\n'.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(run.stdout.split())


def test_the_web_side_loads_no_torch_and_no_transformers() -> None:
    found = imported_by(modules(container))
    assert "container.api.openai.routes" in found
    assert not found & {"torch", "transformers", "accelerate", "bitsandbytes", "numpy", "scipy", "pickle5"}


def test_the_pure_rooms_load_no_library_but_msgspec() -> None:
    from handler import scheduling, seam, speculation

    pure = [
        *modules(seam),
        *modules(scheduling),
        *modules(speculation),
        *modules(model_memory),
        "handler.engine.hang_limit",
        "handler.engine.in_flight",
    ]
    assert len(pure) > 15
    found = {name.split(".")[0] for name in imported_by(pure)}
    assert not found & {"torch", "transformers", "zmq", "flask", "gevent", "numpy"}


def test_the_engine_reports_a_missing_model_before_it_loads_torch() -> None:
    found = imported_by(["handler.__main__", "handler.prepare"])
    assert "handler.model.location" in found
    assert not found & {"torch", "transformers", "numpy"}


def test_the_hook_process_loads_no_web_server_and_no_torch() -> None:
    found = imported_by(["container.hooks.host.__main__"])
    assert not found & {"flask", "gevent", "torch", "transformers", "numpy"}


def test_the_supervisor_loads_neither_flask_nor_gevent() -> None:
    from container import supervisor

    assert not imported_by(modules(supervisor)) & {"flask", "gevent", "zmq"}


NO_DIALECT = {"documents", "playground", "schema", "server"}
DIALECTS = {path.parent.name for path in (ROOT / "container" / "api").glob("*/__init__.py")} - NO_DIALECT


def of_dialects(arrows: set[tuple[str, str]], importer: str, dialects: set[str]) -> list[tuple[str, str]]:
    """Arrows from `importer` to any of `dialects`."""
    return [arrow for name in sorted(dialects) for arrow in broken((importer, f"container.api.{name}"), arrows)]


# Which dialects a dialect may know. Responses and Messages are other words for a chat: what they ask is a `Chat` of
# package openai (decision 0127). vLLM's /tokenize is such a one, on a path of TGI's (decision 0131). Decisions have its
# template and its form of errors; System One asks the same questions in other words (decision 0130).
KNOWN = {
    "anthropic": {"openai"},
    "responses": {"openai"},
    "decisions": {"openai"},
    "systemone": {"openai", "decisions"},
    "vllm": {"openai", "tgi"},
}


@pytest.mark.parametrize("dialect", sorted(DIALECTS - {"sagemaker"}))
def test_no_dialect_knows_another(dialect: str) -> None:
    """But SageMaker's, whose contract is to tell the others' bodies apart, and those of `KNOWN`."""
    known = {dialect} | KNOWN.get(dialect, set())
    assert not of_dialects(ARROWS, f"container.api.{dialect}", DIALECTS - known)


def test_nothing_outside_knows_a_dialect() -> None:
    inside = tuple(f"container.api.{name}" for name in DIALECTS)
    outside = {(one, two) for one, two in ARROWS if not one.startswith(inside)}
    assert not of_dialects(outside, "container", DIALECTS)
    assert not of_dialects(outside, "handler", DIALECTS)


@pytest.mark.parametrize("package", [container, handler, model_memory, sagemaker_deploy])
def test_no_pickle_and_no_eval(package: object) -> None:
    for path in Path(package.__file__).parent.rglob("*.py"):  # type: ignore[attr-defined]
        assert not set(imported(path)) & {"pickle", "marshal", "shelve", "dill", "cloudpickle"}, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec"}, path
