"""`inference.py`: functions by name, as sagemaker-inference and the Hugging Face toolkit resolve and call them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any

from sagemaker_inference import content_types

from container.hooks.model.engine_model import EngineModel
from container.hooks.user_code.answer import is_body, is_typed, to_answer
from container.hooks.user_code.batcher import Batcher
from container.hooks.user_code.content.accept import Accept
from container.hooks.user_code.content.decoding import decode
from container.hooks.user_code.content.encoding import encode
from container.hooks.user_code.context import Context
from container.hooks.user_code.failures import hook_errors
from container.hooks.user_code.function import Function, called, complete, serialised
from container.hooks.user_code.hook import Convention, HookAnswer, HookFiles, HookLoadError, HookRequest
from container.hooks.user_code.module import load_error

logger = logging.getLogger(__name__)

# What each function takes beside the context.
_NUM_ARGUMENTS = {
    "model_fn": 1,
    "pre_model_fn": 1,
    "model_warmup_fn": 2,
    "input_fn": 2,
    "predict_fn": 2,
    "predict_fn_batch": 2,
    "output_fn": 2,
    "transform_fn": 4,
}
# A model that these use is the user's own: no two calls at once.
_USE_MODEL = ("predict_fn", "predict_fn_batch", "transform_fn")
_PARTS = ("input_fn", "predict_fn", "predict_fn_batch", "output_fn")
_PER_REQUEST = (*_PARTS, "transform_fn")
_MAX_BATCH = "MAX_BATCH_SIZE"
_DEFAULT_MAX_BATCH = 32


class InferenceHook:
    """The functions of one module, and the model that `model_fn` returned, or the engine."""

    overrides_ping = False

    def __init__(self, module: ModuleType, files: HookFiles, engine: EngineModel | None) -> None:
        """Run `pre_model_fn`, `model_fn` and `model_warmup_fn`. Raises HookLoadError."""
        self._files = files
        self._functions = _functions(module, files)
        self.owns_model = "model_fn" in self._functions
        if not self.owns_model and engine is None:
            raise HookLoadError(f"{files.path} has no model_fn, and no engine runs whose model it could use")
        self.is_async = any(
            self._functions[name].is_async for name in (*_PARTS, "transform_fn") if name in self._functions
        )
        self._engine = engine
        self._model_lock = threading.Lock()
        self._model = self._load_model(engine)
        self._batcher = self._make_batcher(module)
        if self._batcher is not None and "predict_fn" in self._functions:
            logger.warning("%s: predict_fn is never called, as predict_fn_batch takes its place", files.path)

    def call(self, request: HookRequest) -> HookAnswer | Awaitable[HookAnswer]:
        """Answer one request. Raises HookError."""
        return self._answer(request) if self.is_async else complete(self._answer(request))

    def ping(self) -> HookAnswer:
        """These conventions have no ping of their own."""
        raise NotImplementedError

    async def _answer(self, request: HookRequest) -> HookAnswer:
        with hook_errors():
            context = Context(self._files.model_directory, request)
            accept = Accept(request.accept, self._files.sources.default_accept, request.body)
            # Exact types only: with parameters the toolkits hand over bytes.
            is_text = request.content_type in content_types.UTF8_TYPES
            body = request.body.decode() if is_text else request.body
            result = await self._transform(body, request.content_type, accept, context)
            content_type = None
            if is_typed(result) or (isinstance(result, tuple) and self._files.convention is Convention.SAGEMAKER):
                result, content_type = _pair(result)
            return await to_answer(result, content_type, accept, context, self.is_async)

    async def _transform(self, body: str | bytes, content_type: str | None, accept: Accept, context: Context) -> Any:
        if "transform_fn" in self._functions:
            return await self._run("transform_fn", self._model, body, content_type, accept.value, context=context)
        if "input_fn" in self._functions:
            data = await self._run("input_fn", body, content_type, context=context)
        else:
            data = decode(body, content_type, self._files.convention)
        prediction = await self._predict(data, context)
        if "output_fn" in self._functions:
            return await self._run("output_fn", prediction, accept.value, context=context)
        return prediction if is_body(prediction) else encode(prediction, accept, self._files.convention)

    async def _predict(self, data: Any, context: Context) -> Any:
        if self._batcher is not None:
            return await self._batcher(data, context, on_loop=self.is_async)
        if "predict_fn" in self._functions:
            return await self._run("predict_fn", data, self._model, context=context)
        if self.owns_model:
            return await called(self._call_model, data, on_loop=self.is_async)
        assert self._engine is not None
        return await self._engine.apredict(data) if self.is_async else self._engine.predict(data)

    def _call_model(self, data: Any) -> Any:
        """The Hugging Face toolkit's predict_fn: the user's model is called as a pipeline is."""
        inputs: Any = data
        parameters: dict[str, Any] = {}
        if isinstance(data, dict):
            parameters = data.pop("parameters", None) or {}
            inputs = data.pop("inputs", data)
        with self._model_lock:
            return self._model(inputs, **parameters)

    async def _run(self, name: str, *args: Any, context: Context) -> Any:
        return await self._functions[name](*args, context=context, on_loop=self.is_async)

    def _load_model(self, engine: EngineModel | None) -> Any:
        directory = str(self._files.model_directory)
        context = Context(self._files.model_directory)
        self._load_step("pre_model_fn", directory, context=context)
        model = self._load_step("model_fn", directory, context=context) if self.owns_model else engine
        self._load_step("model_warmup_fn", directory, model, context=context)
        return model

    def _load_step(self, name: str, *args: Any, context: Context) -> Any:
        if name not in self._functions:
            return None
        try:
            return complete(self._functions[name](*args, context=context, on_loop=False))
        except BaseException as exc:
            raise load_error(f"{name} of {self._files.path} failed", exc) from exc

    def _make_batcher(self, module: ModuleType) -> Batcher | None:
        if "predict_fn_batch" not in self._functions:
            return None
        limit = getattr(module, _MAX_BATCH, _DEFAULT_MAX_BATCH)
        if not isinstance(limit, int) or limit < 1:
            raise HookLoadError(f"{_MAX_BATCH} of {self._files.path} must be a whole number from 1, not {limit!r}")
        return Batcher(self._functions["predict_fn_batch"], self._model, limit)


def _functions(module: ModuleType, files: HookFiles) -> dict[str, Function]:
    """The user's functions by name. Raises HookLoadError for none, for a mix, and for what cannot be called."""
    found = {name: getattr(module, name) for name in _NUM_ARGUMENTS if getattr(module, name, None) is not None}
    wrong = [name for name, function in found.items() if not callable(function)]
    if wrong:
        raise HookLoadError(f"{', '.join(wrong)} of {files.path} is no function")
    if not found.keys() - {"pre_model_fn", "model_warmup_fn"}:
        raise HookLoadError(f"{files.path} has none of {', '.join(_NUM_ARGUMENTS)}")
    mixed = [name for name in _PARTS if name in found]
    if "transform_fn" in found and mixed:
        raise HookLoadError(
            "Cannot use transform_fn implementation in conjunction with input_fn, predict_fn, and/or output_fn "
            f"implementation: {files.path} has transform_fn and {', '.join(mixed)}"
        )
    is_pipeline = files.convention is Convention.HUGGING_FACE
    if "model_fn" in found and not is_pipeline and not found.keys() & set(_USE_MODEL):
        raise HookLoadError(f"{files.path} has a model_fn, so it needs a predict_fn, predict_fn_batch or transform_fn")
    return {name: Function(_alone(name, found), count) for name, count in _NUM_ARGUMENTS.items() if name in found}


def _alone(name: str, found: dict[str, Callable[..., Any]]) -> Callable[..., Any]:
    return serialised(found[name], threading.Lock()) if name in _USE_MODEL and "model_fn" in found else found[name]


def _pair(result: tuple[Any, ...]) -> tuple[Any, str | None]:
    """Body and type; sagemaker-inference takes the first two of any tuple."""
    return result[0], str(result[1]) if len(result) > 1 and result[1] is not None else None
