"""A checkpoint's weights for transformers' loading: by name, read when they are looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handler.formats.gguf.manifest import is_converted
from handler.formats.stored_format import StoredFormat, has_reader, reader_of
from handler.formats.tensor_files import open_tensors
from handler.linears.quantised_weight import QuantisedWeight
from handler.model.loading.carried_weight import CarriedWeight
from handler.model.loading.gguf_source import gguf_weights
from handler.model.stored_bitsandbytes import drop_threshold, silence_bitsandbytes

_BITSANDBYTES = "bitsandbytes"


class _StoredWeight:
    """A weight that a reader makes of several tensors; `[...]` reads it, as it does a slice of a safetensors file."""

    def __init__(self, reader: StoredFormat, name: str) -> None:
        self._reader = reader
        self._name = name

    def __getitem__(self, index: object) -> Tensor | CarriedWeight:
        found = self._reader.read(self._name)
        return CarriedWeight(found, torch.float32) if isinstance(found, QuantisedWeight) else found


@dataclass(frozen=True, slots=True)
class StoredForm:
    """A form that a reader of `handler/formats` reads: the `quant_method` and `quantization_config` of config.json."""

    method: str
    values: Mapping[str, Any]


def take_form(model_config: Any, device: torch.device) -> StoredForm | None:
    """The stored form that is read here, taken off `model_config`; None if there is none or transformers reads it.

    What transformers reads is prepared for it.
    """
    found = getattr(model_config, "quantization_config", None)
    if not found:
        return None
    values = found if isinstance(found, dict) else found.to_dict()
    # transformers takes one without a name for bitsandbytes', if it says that much.
    unnamed = _BITSANDBYTES if values.get("load_in_4bit") or values.get("load_in_8bit") else ""
    method = str(values.get("quant_method") or unnamed)
    # On CUDA bitsandbytes' kernels multiply what it has stored. Ours know no table of values there.
    left_to_library = device.type == "cuda" and method == _BITSANDBYTES
    if has_reader(method) and not left_to_library:
        del model_config.quantization_config
        return StoredForm(method, values)
    silence_bitsandbytes()
    drop_threshold(model_config)
    return None


@contextmanager
def open_weights(directory: Path, form: StoredForm | None, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """The weights in `directory`, by the names that a model without quantisation has, while the block runs.

    None reads tensors as they are, and those of .gguf files as dense ones of `dtype`. Raises BadModel.
    """
    if is_converted(directory):
        yield gguf_weights(directory, dtype if form is None else None)
        return
    with open_tensors(directory) as tensors:
        reader = None if form is None else reader_of(form.method, form.values, tensors)
        sources = {} if reader is None else reader.sources()
        used = {name for names in sources.values() for name in names}
        found: dict[str, Any] = {name: tensors.slice(name) for name in tensors if name not in used}
        if reader is not None:
            found |= {name: _StoredWeight(reader, name) for name in sources if name}
        yield found
