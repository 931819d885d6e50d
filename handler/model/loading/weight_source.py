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
from handler.formats.tensor_files import TensorFiles, open_tensors
from handler.linears.quantised_weight import QuantisedWeight
from handler.model.loading.carried_weight import CarriedWeight, DenseWeight
from handler.model.loading.gguf_source import gguf_weights
from handler.model.quantize import stored_values
from handler.model.stored_bitsandbytes import drop_threshold, silence_bitsandbytes
from model_memory.stored_codes import method_of
from model_memory.stored_forms import is_left_to_bitsandbytes


class _StoredWeight:
    """A weight that a reader makes of several tensors; `[...]` reads it, as it does a slice of a safetensors file."""

    def __init__(self, reader: StoredFormat, name: str, num_bytes: int) -> None:
        """`num_bytes` is the size of these tensors."""
        self._reader = reader
        self._name = name
        self._num_bytes = num_bytes

    def __getitem__(self, index: object) -> Tensor | CarriedWeight:
        found = self._reader.read(self._name)
        if isinstance(found, QuantisedWeight):
            return CarriedWeight(found, torch.float32)
        return DenseWeight(found, torch.float32, self._num_bytes) if found.dim() > 1 else found


class _DenseWeight:
    """A tensor of the files, looked at as transformers looks at a slice of a safetensors file."""

    def __init__(self, tensors: TensorFiles, name: str, *, copies: bool) -> None:
        """With `copies` no tensor is a view of a file, whose pages would then stay in memory beside packed weights."""
        self._tensors, self._name, self._copies = tensors, name, copies

    def get_dtype(self) -> str:
        """As safetensors names it."""
        return self._tensors.dtype(self._name)

    def get_shape(self) -> list[int]:
        """Without reading it."""
        return list(self._tensors.shape(self._name))

    def __getitem__(self, index: Any) -> Tensor:
        found = self._tensors[self._name]
        return found[index].clone() if self._copies else found[index]


@dataclass(frozen=True, slots=True)
class StoredForm:
    """A form that a reader of `handler/formats` reads: the `quant_method` and `quantization_config` of config.json."""

    method: str
    values: Mapping[str, Any]


def take_form(model_config: Any, device: torch.device) -> StoredForm | None:
    """The stored form that is read here, taken off `model_config`; None if there is none or transformers reads it.

    bitsandbytes' own layers serve its forms on CUDA; what they read is prepared for it.
    """
    values = stored_values(model_config)
    if not values:
        return None
    method = method_of(values)
    if has_reader(method) and not is_left_to_bitsandbytes(values, on_cuda=device.type == "cuda"):
        del model_config.quantization_config
        return StoredForm(method, values)
    silence_bitsandbytes()
    drop_threshold(model_config)
    return None


@contextmanager
def open_weights(
    directory: Path, form: StoredForm | None, device: torch.device, dtype: torch.dtype
) -> Iterator[dict[str, Any]]:
    """The weights in `directory`, by the names that a model without quantisation has, while the block runs.

    A `form` of None reads tensors as they are, and those of .gguf files as dense ones of `dtype`. `device` is where
    they go. Raises BadModel.
    """
    if is_converted(directory):
        yield gguf_weights(directory, dtype if form is None else None)
        return
    with open_tensors(directory) as tensors:
        reader = None if form is None else reader_of(form.method, form.values, tensors)
        sources = {} if reader is None else reader.sources()
        used = {name for names in sources.values() for name in names}
        on_cpu = device.type == "cpu"
        found: dict[str, Any] = {n: _DenseWeight(tensors, n, copies=on_cpu) for n in tensors if n not in used}
        if reader is not None:
            sizes = {name: sum(map(tensors.num_bytes, parts)) for name, parts in sources.items()}
            found |= {name: _StoredWeight(reader, name, sizes[name]) for name in sources if name}
        yield found
