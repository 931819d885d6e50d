"""The weights of a compressed-tensors checkpoint, by name."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from handler.formats.compressed_tensors.config_groups import ConfigGroups
from handler.formats.compressed_tensors.stored_module import PARTS, StoredModule
from handler.formats.tensor_files import TensorFiles
from handler.linears.quantised_weight import QuantisedWeight
from handler.seam.errors import BadModel

logger = logging.getLogger(__name__)

# Numbers for the rounding of activations and of the KV cache.
_OWNERS = ("input", "output", "q", "k", "v")
_UNUSED = {f"{owner}_{part}" for owner in _OWNERS for part in ("scale", "zero_point", "global_scale")}
# An llm-compressor that joins experts again writes these; it packs them along another dimension than it reads.
_JOINED = tuple(f"_proj_{part.removeprefix('weight_')}" for part in PARTS)


class CompressedTensors:
    """A module is quantised if it has a `weight_scale`; the config groups say how. See `StoredFormat`."""

    def __init__(self, groups: ConfigGroups, tensors: TensorFiles) -> None:
        """Logs what of the checkpoint is not used. Raises BadModel for experts stored as one quantised tensor."""
        self._groups = groups
        self._tensors = tensors
        self._sources = _sources(tensors)
        if groups.rounds_activations:
            logger.info("the checkpoint says how to round activations; only its weights are used")
        if groups.rounds_cache:
            logger.info("the checkpoint has scales for a KV cache in 8 bits; the cache keeps the model's dtype")

    def sources(self) -> Mapping[str, tuple[str, ...]]:
        """See `StoredFormat`."""
        return self._sources

    def read(self, name: str) -> QuantisedWeight | Tensor:
        """See `StoredFormat`. A weight that was made dense again keeps its scale in the files and stays dense."""
        module = name.removesuffix(".weight")
        parts = {each.removeprefix(f"{module}."): self._tensors[each] for each in self._sources[name]}
        dense = parts.get("weight")
        if dense is not None and dense.dtype in (torch.float16, torch.bfloat16, torch.float32):
            if self._groups.is_decompressed:
                return dense
            raise BadModel(
                f"{name} has a scale but is not rounded; save the model with llm-compressor's save_compressed=True"
            )
        return StoredModule(module, parts, self._groups.args(module), self._groups.version).weight()


def _sources(tensors: TensorFiles) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    unused = []
    for name in tensors:
        module, _, part = name.rpartition(".")
        if part in _UNUSED:
            unused.append(name)
        elif module.endswith("experts") and part.endswith(_JOINED):
            raise BadModel(f"{name}: experts quantised in one tensor are not read; store one linear layer each expert")
        elif part in PARTS:
            parts = (f"{module}.{each}" for each in ("weight", *PARTS))
            found[f"{module}.weight"] = tuple(each for each in parts if each in tensors)
    return {**found, "": tuple(unused)} if unused else found
