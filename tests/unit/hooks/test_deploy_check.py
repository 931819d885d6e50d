"""The deploy helper reads a user's code as the container runs it; neither may import the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from container.hooks.model.engine_model import EngineModel
from container.hooks.user_code import inference_hook
from container.hooks.user_code.files import find
from container.hooks.user_code.hook import HookLoadError, HookSources
from handler.seam.code_names import CUSTOM_CODE, REQUIREMENTS
from sagemaker_deploy.aws import upload
from sagemaker_deploy.errors import SpecError
from sagemaker_deploy.request import hook_signatures, user_code
from tests.support.hooks import loaded, write

ENGINE = EngineModel("http://127.0.0.1:9")
CALL = "    def __call__(self, data): return data\n"
BASE = "class Base:\n    def __init__(self, path, {more}): ...\n" + CALL
PREDICT = "def predict_fn(d, m): ...\n"
HANDLERS = {
    "own": "class EndpointHandler:\n    def __init__(self, path=''): ...\n" + CALL,
    "ours": "class EndpointHandler:\n    def __init__(self, path='', model=None): ...\n" + CALL,
    "keyword": "class EndpointHandler:\n    def __init__(self, path, *, model): ...\n" + CALL,
    "before": "class EndpointHandler:\n    def __init__(self, model, path): ...\n" + CALL,
    "more": "class EndpointHandler:\n    def __init__(self, path, more): ...\n" + CALL,
    "any": "class EndpointHandler:\n    def __init__(*given): ...\n" + CALL,
    "none": "class EndpointHandler:\n" + CALL,
    "inherited": BASE.format(more="model=None") + "class EndpointHandler(Base): ...",
    "inherited own": BASE.format(more="*rest") + "class EndpointHandler(Base, object): ...",
    "overridden": BASE.format(more="model") + "class EndpointHandler(Base):\n    def __init__(self, path): ...",
    "twice": BASE.format(more="model") + "class Middle(Base): ...\nclass EndpointHandler(Middle): ...",
    "alias": BASE.format(more="model") + "EndpointHandler = Base",
    "function": BASE.format(more="model") + "def EndpointHandler(path, model): return Base(path, model)",
    "condition": "if True:\n    class EndpointHandler:\n        def __init__(self, path, model): ...\n    " + CALL,
    "call": "class EndpointHandler:\n    def __init__(self, path): ...\n    def run(self, d): ...\n    __call__ = run",
}
FUNCTIONS = {
    "predict": PREDICT,
    "model": PREDICT + "def model_fn(d): ...",
    "context": PREDICT + "def model_fn(d, context=None): ...",
    "async": PREDICT + "async def model_fn(d): ...",
    "assigned": PREDICT + "def load(d): ...\nmodel_fn = load",
    "inner": PREDICT + "def other():\n    def model_fn(d): ...",
    "tried": PREDICT + "try:\n    from json import dumps as model_fn\nexcept ImportError:\n    pass",
    "too few": "def predict_fn(d): ...",
    "too many": "def predict_fn(d, m, c, e): ...",
    "keyword": "def predict_fn(d, m, *, c): ...",
    "keyword with a default": "def predict_fn(d, m, *, c=1): ...",
    "defaults": "def predict_fn(d, m, c=1, e=2): ...",
    "any": "def predict_fn(*a): ...",
    "any and context": "def predict_fn(d, m, *a): ...",
    "mixed": PREDICT + "def transform_fn(m, b, c, a): ...",
}
FILES = [("handler.py", text) for text in HANDLERS.values()] + [("inference.py", text) for text in FUNCTIONS.values()]


def container_says(directory: Path) -> bool | None:
    try:
        return loaded(directory, engine=ENGINE).owns_model
    except HookLoadError:
        return None


def helper_says(directory: Path) -> bool | None:
    try:
        return user_code.read_code(directory).owns_model
    except SpecError:
        return None


@pytest.mark.parametrize(("name", "text"), FILES, ids=[*HANDLERS, *FUNCTIONS])
def test_what_can_run_and_who_loads_the_model(tmp_path: Path, name: str, text: str) -> None:
    """None: it cannot run."""
    write(tmp_path, {name: text})
    assert helper_says(tmp_path) is container_says(tmp_path)


def test_names_and_their_arguments() -> None:
    counts = {name: len(arguments) for name, arguments in hook_signatures.FUNCTIONS.items()}
    assert counts == inference_hook._NUM_ARGUMENTS
    assert upload._CUSTOM_CODE == CUSTOM_CODE == (*user_code._MAIN, REQUIREMENTS)


@pytest.mark.parametrize("main", user_code._MAIN)
def test_files_that_would_run_in_place_of_it_are_refused(tmp_path: Path, main: str) -> None:
    text = HANDLERS["own"] + PREDICT + "def custom_sagemaker_ping_handler(request): ..."
    code = user_code.read_code(write(tmp_path / "code", {main: text}))
    for other in ("code/inference.py", *user_code._MAIN):
        model = write(tmp_path / other.replace("/", "-"), {other: text})
        placed = write(model, dict.fromkeys(code.files(), text))
        found = find(placed, HookSources(), trusted=True)
        assert found is not None
        runs = found.path == placed / next(iter(code.files()))
        if runs:
            code.refuse_hidden(model)
        else:
            with pytest.raises(SpecError, match="would run in place of"):
                code.refuse_hidden(model)
