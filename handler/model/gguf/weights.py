"""The transformers model of .gguf files, without weights, and which tensors of the files are which of its weights."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

from handler.formats.gguf.manifest import Manifest, SourceFile, SourceTensor
from handler.formats.gguf.processing import is_untouched, processing_for, weight_names
from handler.formats.gguf.tensors import check_kind
from handler.model.checks.weight_check import check_weights
from handler.model.gguf.values import ROPE_FACTORS, complete
from handler.seam.errors import BadModel

# Architectures whose files never hold the output layer's weights apart from the embedding's (transformers 5.23).
_ALWAYS_TIED = frozenset({"falcon", "bloom"})


def make_skeleton(first: Path, readers: Sequence[Any]) -> Any:
    """The model of a file, or of a split file whose first part is `first`, on the meta device."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    architecture = _architecture(readers)
    config = AutoConfig.from_pretrained(first.parent, gguf_file=first.name)
    if len(readers) > 1 and architecture not in _ALWAYS_TIED:  # transformers looks for it in the first part alone
        present = {str(tensor.name) for reader in readers for tensor in reader.tensors}
        config.tie_word_embeddings = "output.weight" not in present
    complete(config.get_text_config(), architecture, readers)
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config)
    skeleton.config.architectures = [type(skeleton).__name__]
    skeleton.config.dtype = torch.bfloat16
    return skeleton


def make_manifest(paths: Sequence[Path], readers: Sequence[Any], skeleton: Any) -> Manifest:
    """`readers` are `gguf.GGUFReader`s of `paths`; `skeleton` is the model, without weights.

    Raises BadModel for a tensor of a type that is not read, and for one that two files hold.
    """
    tensors: dict[str, SourceTensor] = {}
    for number, reader in enumerate(readers):
        for tensor in reader.tensors:
            name = str(tensor.name)
            if name in tensors:
                raise BadModel(f"{paths[number].name} and another file of the model hold the tensor {name}")
            check_kind(name, str(tensor.tensor_type.name))
            tensors[name] = _source_tensor(number, tensor)
    architecture = _architecture(readers)
    config = _plain_values(skeleton.config.get_text_config().to_dict())
    weights = _by_weight(weight_names(architecture, config, skeleton, tensors))
    processing = processing_for(architecture, config, weights)
    single = {weight: names[0] for weight, names in weights.items() if weight and len(names) == 1}
    return Manifest(
        files=tuple(SourceFile.of(path) for path in paths),
        architecture=architecture,
        config=config,
        tensors=tensors,
        weights=weights,
        untouched=frozenset(
            weight for weight, name in single.items() if is_untouched(processing, name, tensors[name].shape)
        ),
    )


def check_complete(manifest: Manifest, skeleton: Any, where: str) -> None:
    """Raise BadModel if the files lack a weight of the model or hold one of another size; log unused tensors."""
    parameters = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict(keep_vars=True).items()}
    shapes = {
        weight: [manifest.tensors[tensor].shape for tensor in tensors]
        for weight, tensors in manifest.weights.items()
        if weight
    }
    other = {
        (weight, found[0], parameters[weight])
        for weight, found in shapes.items()
        if sum(map(prod, found)) != prod(parameters.get(weight, ()))
    }
    missing = parameters.keys() - shapes.keys() - skeleton.all_tied_weights_keys.keys()
    unused = [name for name in manifest.weights.get("", ()) if name != ROPE_FACTORS]
    info = {"missing_keys": missing, "mismatched_keys": other, "unexpected_keys": unused}
    check_weights(skeleton, info, where)


def _architecture(readers: Sequence[Any]) -> str:
    return str(readers[0].fields["general.architecture"].contents())


def _source_tensor(number: int, tensor: Any) -> SourceTensor:
    return SourceTensor(
        file=number,
        kind=str(tensor.tensor_type.name),
        shape=tuple(int(size) for size in reversed(tensor.shape)),
        offset=int(tensor.data_offset),
        num_bytes=int(tensor.n_bytes),
    )


def _plain_values(config: dict[str, Any]) -> dict[str, Any]:
    """What the tables of an architecture look at: numbers and words."""
    return {name: value for name, value in config.items() if isinstance(value, int | float | str)}


def _by_weight(names: dict[str, str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for tensor, weight in names.items():
        found[weight] = (*found.get(weight, ()), tensor)
    return found
