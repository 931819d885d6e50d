"""What a reader of a stored form gives, and which reader a checkpoint has.

A form is one module or folder here, found by its `METHODS`: the `quant_method` values of config.json that it reads. Its
`reader(values, tensors)` makes a `StoredFormat` of `quantization_config` and the open files. Whether a form is refused
is said in `model_memory/stored_codes.py`, before the download.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Protocol

from torch import Tensor

import handler.formats
from handler.formats.tensor_files import TensorFiles
from handler.linears.quantised_weight import QuantisedWeight
from handler.seam.errors import BadModel
from model_memory.stored_codes import refusal


class StoredFormat(Protocol):
    """The weights of one checkpoint by name, as a model without quantisation would have stored them."""

    def sources(self) -> Mapping[str, tuple[str, ...]]:
        """Weight name (`model.layers.0.mlp.up_proj.weight`) -> names of the tensors it is made of.

        Tensors that a model has no use for (scales of a KV cache) belong to the name "". All tensors that are not named
        are dense weights.
        """

    def read(self, name: str) -> QuantisedWeight | Tensor:
        """The weight `name` of `sources`, quantised or dense, on CPU. Raises BadModel for tensors that do not fit."""


def has_reader(method: str) -> bool:
    """Whether this folder reads the `quant_method` `method`."""
    return method in _modules()


def reader_of(method: str, values: Mapping[str, Any], tensors: TensorFiles) -> StoredFormat | None:
    """The reader for `quant_method` `method`; None if this folder has none.

    Raises BadModel for values that `stored_codes.refusal` refuses, and for those that the reader does not know.
    """
    found = _modules().get(method)
    if found is None:
        return None
    if refused := refusal({**values, "quant_method": method}):
        raise BadModel(refused)
    reader: StoredFormat = found.reader(values, tensors)
    return reader


@functools.cache
def _modules() -> Mapping[str, ModuleType]:
    """The module of each `quant_method`."""
    names = (each.name for each in pkgutil.iter_modules(handler.formats.__path__))
    modules = [importlib.import_module(f"{handler.formats.__name__}.{name}") for name in names]
    return {method: module for module in modules for method in getattr(module, "METHODS", ())}
