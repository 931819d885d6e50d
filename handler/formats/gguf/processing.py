"""What undoes llama.cpp's changes to the tensors of an architecture: transformers' own tables, in their two forms.

Most architectures have a `TensorProcessor`; the newer table has a list of renamings and conversions. Neither reads
gpt-oss, which has a module of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from torch import Tensor

from handler.formats.gguf import gpt_oss


class Processing(Protocol):
    """The changes of one architecture."""

    def process(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The weight of the model that is made of these tensors of the file, by name."""


def processing_for(architecture: str, config: Mapping[str, Any], weights: Mapping[str, Sequence[str]]) -> Processing:
    """`config` has the values of the model's configuration; `weights` has the tensors of each weight."""
    if architecture == gpt_oss.ARCHITECTURE:
        return gpt_oss.GptOssProcessing()
    mapping = _conversion_mapping(architecture, config)
    return _Processor(architecture, config, weights) if mapping is None else _Conversions(mapping)


def weight_names(architecture: str, config: Mapping[str, Any], skeleton: Any, tensors: Iterable[str]) -> dict[str, str]:
    """The weight of `skeleton`, a transformers model, that each tensor is, or is a part of; "" for none."""
    if architecture == gpt_oss.ARCHITECTURE:
        return {tensor: gpt_oss.weight_name(tensor) for tensor in tensors}
    mapping = _conversion_mapping(architecture, config)
    if mapping is not None:
        conversions, present = _Conversions(mapping), set(skeleton.state_dict(keep_vars=True))
        names = {tensor: conversions.target(tensor) for tensor in tensors}
        return {tensor: weight if weight in present else "" for tensor, weight in names.items()}
    from transformers.modeling_gguf_pytorch_utils import get_gguf_hf_weights_map

    table = get_gguf_hf_weights_map(skeleton, _processor(architecture, config))
    # A parameter that is no module's has a name without a suffix in that table.
    return {tensor: table.get(tensor) or table.get(tensor.removesuffix(".weight")) or "" for tensor in tensors}


def row_order(processing: Processing, shapes: Mapping[str, Sequence[int]]) -> Tensor | None:
    """Which rows of the tensors of these `shapes`, one after the other along N, make up their weight: int64 `[N]`.

    None if more is done than to join matrices `[..., N, K]` and to move their rows.
    """
    first = next(iter(shapes.values()))
    leading = first[:-2]
    if any(len(shape) < 2 or shape[:-2] != leading or shape[-1] != first[-1] for shape in shapes.values()):
        return None
    total = sum(shape[-2] for shape in shapes.values())
    numbers = torch.arange(prod(leading) * total, dtype=torch.float64).view(*leading, total, 1)
    # Two columns, one of them negative: whatever changes numbers or moves columns is seen.
    probe = torch.cat([numbers, -1 - numbers], -1)
    pieces = probe.split([shape[-2] for shape in shapes.values()], -2)
    try:
        found = processing.process(dict(zip(shapes, pieces, strict=True)))
    except (ValueError, IndexError, RuntimeError):  # it needs the true number of inputs
        return None
    if found.shape != probe.shape:
        return None
    order = found.reshape(-1, total, 2)[0, :, 0].long()
    if not torch.equal(order.clamp(0, total - 1).bincount(minlength=total), torch.ones(total, dtype=torch.int64)):
        return None
    return order if torch.equal(found, probe[..., order, :]) else None


def is_untouched(processing: Processing, name: str, shape: Sequence[int]) -> bool:
    """True if the weight is the tensor as it is."""
    if len(shape) > 1:
        order = row_order(processing, {name: shape})
        return order is not None and torch.equal(order, torch.arange(len(order)))
    probe = torch.arange(1, 1 + shape[0], dtype=torch.float64)
    found = processing.process({name: probe.clone()})
    return torch.equal(found, probe)


class _Processor:
    """By a TensorProcessor."""

    def __init__(self, architecture: str, config: Mapping[str, Any], weights: Mapping[str, Sequence[str]]) -> None:
        self._processor = _processor(architecture, config)
        names = {tensor: weight for weight, tensors in weights.items() for tensor in tensors if weight}
        self._names = {tensor.removesuffix(".weight"): weight for tensor, weight in names.items()} | names

    def process(self, tensors: Mapping[str, Tensor]) -> Tensor:
        made: dict[str, Any] = {"tensors": {}}
        weights: Any = None
        for name, tensor in tensors.items():
            result = self._processor.process(
                weights=tensor.numpy(), name=name, tensor_key_mapping=self._names, parsed_parameters=made
            )
            weights = result.weights if result.name is not None else None
        if weights is None:  # it has put the weight where the loader collects them
            (weights,) = made["tensors"].values()
        return torch.as_tensor(weights).contiguous()


class _Conversions:
    """By renamings and conversions, as transformers' loader applies them."""

    def __init__(self, mapping: Sequence[Any]) -> None:
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        self._renamings = [each for each in mapping if isinstance(each, WeightRenaming)]
        self._converters = [each for each in mapping if isinstance(each, WeightConverter)]

    def target(self, tensor: str) -> str:
        return self._renamed(tensor)[0]

    def process(self, tensors: Mapping[str, Tensor]) -> Tensor:
        renamed = {name: self._renamed(name) for name in tensors}
        target, pattern = next(iter(renamed.values()))
        held: dict[str, Any] = {renamed[name][1] or target: [tensor] for name, tensor in tensors.items()}
        for converter in self._converters:
            if pattern not in converter.source_patterns:
                continue
            held = {each: held[each] for each in converter.source_patterns if each in held}
            for operation in converter.operations:
                held = operation.convert(
                    held, source_patterns=converter.source_patterns, target_patterns=[target], full_layer_name=target
                )
        (found,) = held.values()
        made: Tensor = found[0] if isinstance(found, list) else found
        return made.contiguous()

    def _renamed(self, tensor: str) -> tuple[str, str | None]:
        from transformers.core_model_loading import rename_source_key

        found: tuple[str, str | None] = rename_source_key(tensor, self._renamings, self._converters)
        return found


def _processor(architecture: str, config: Mapping[str, Any]) -> Any:
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

    made: Any = TENSOR_PROCESSORS.get(architecture, TensorProcessor)
    return made(config=dict(config))


def _conversion_mapping(architecture: str, config: Mapping[str, Any]) -> list[Any] | None:
    """The newer table's list, on CPU whatever the default device is; None for an architecture that it lacks."""
    from transformers.integrations.gguf.gguf_conversion_mapping import GGUF_ARCHS

    if architecture not in GGUF_ARCHS:
        return None
    values = SimpleNamespace(**config)
    values.get_text_config = lambda: values
    build: Any = GGUF_ARCHS[architecture]
    mapping: list[Any] = build(values)
    return mapping
