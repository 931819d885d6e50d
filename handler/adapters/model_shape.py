"""`ModelShape`: what an adapter may change in a loaded model: its modules by path, their sizes and biases."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.pytorch_utils import Conv1D

from handler.linears.experts.matrices import ExpertMatrices
from handler.linears.experts.quantised_experts import is_experts, matrix_names

# Experts that are modules of their own see some of the rows only.
_SINGLE_EXPERT = re.compile(r"\.experts\.\d+\.")
# Rows whose copies in another type exist at once.
_ROWS_MARKED = 4096
# Families' own kinds of nn.Linear that multiply and nothing else.
_LIKE_LINEAR = frozenset({"FalconLinear"})


@dataclass(frozen=True, slots=True)
class Size:
    """A product's outputs N and inputs K; of experts also how many they are."""

    num_outputs: int
    num_inputs: int
    num_experts: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class ModelShape:
    """Modules by path: `linears` multiply, `experts` are matrices of experts (`….experts.gate_up_proj`), `routers`
    multiply too, and choose experts by the result; `biases` are float32 `[N]` of any module, `convolutions` those of
    them whose outputs are no rows.

    `input_embedding` and `output_layer` are paths, `tied` says whether they share a weight. `marks` are of their
    weights if these are ordinary ones (see `marks_of`): the weights themselves must be free to go.
    `attention_rows` are the outputs of query, key and value. `conversions` are transformers' own, of names in
    checkpoints; `prefix` is the name of the base model in the whole one.
    """

    model_type: str
    modules: frozenset[str]
    linears: dict[str, Size]
    experts: dict[str, Size]
    routers: dict[str, Size]
    biases: dict[str, Tensor]
    convolutions: frozenset[str]
    input_embedding: str | None
    output_layer: str | None
    tied: bool
    embedding_size: Size
    marks: dict[str, dict[torch.dtype, Tensor]]
    attention_rows: tuple[int, int, int]
    prefix: str
    conversions: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, model: Any) -> ModelShape:
        """The shape of transformers' `model`, before a runner changes it."""
        modules = dict(model.named_modules(remove_duplicate=False))
        paths = {id(module): path for path, module in reversed(list(modules.items()))}
        embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
        linears = {path: size for path, module in modules.items() if (size := linear_size(module)) is not None}
        return cls(
            model_type=str(model.config.model_type),
            modules=frozenset(modules),
            linears={path: size for path, size in linears.items() if not _SINGLE_EXPERT.search(f"{path}.")},
            experts={path: size for at, module in modules.items() for path, size in _matrices(at, module).items()},
            routers={path: size for at, module in modules.items() for path, size in _routers(at, module).items()},
            biases={path: bias for path, module in modules.items() if (bias := _bias(module)) is not None},
            convolutions=frozenset(path for path, module in modules.items() if isinstance(module, _ConvNd)),
            input_embedding=paths.get(id(embedding)),
            output_layer=paths.get(id(output)),
            tied=_weight(embedding) is not None and _weight(embedding) is _weight(output),
            embedding_size=Size(embedding.num_embeddings, embedding.embedding_dim),
            marks={
                paths[id(module)]: marks_of(weight)
                for module in (embedding, output)
                if module is not None and (weight := _weight(module)) is not None
            },
            attention_rows=_attention_rows(model.config.get_text_config(decoder=True), linears),
            prefix=model.base_model_prefix,
            conversions=list(get_model_conversion_mapping(model) or ()),
        )

    def size(self, path: str) -> Size | None:
        """Of a product or of experts' matrices."""
        return self.linears.get(path) or self.experts.get(path) or self.routers.get(path)


def marks_of(weight: Tensor) -> dict[torch.dtype, Tensor]:
    """By which a copy of a matrix `[N, K]` is known, whatever type it is kept in: int64 `[N]`, sums of rows' bits.

    They tell an untouched copy from another model's weight, and cost one pass over the matrix for each type.
    """
    return {dtype: row_marks(weight, dtype) for dtype in (weight.dtype, torch.bfloat16, torch.float16)}


def row_marks(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """For each row of `[N, K]` in `dtype`, the sum of its numbers' bits: int64 `[N]` on the CPU."""
    bits = torch.int16 if dtype.itemsize == 2 else torch.int32
    parts = weight.detach().split(_ROWS_MARKED)
    return torch.cat([part.to(dtype).contiguous().view(bits).sum(1, dtype=torch.int64).cpu() for part in parts])


def linear_size(module: Any) -> Size | None:
    """Sizes of a module that multiplies by a weight, whatever holds it."""
    if isinstance(module, Conv1D):
        return Size(module.weight.shape[1], module.weight.shape[0])
    if _computes_otherwise(module):
        return None
    sizes = (getattr(module, "out_features", None), getattr(module, "in_features", None))
    if all(isinstance(size, int) for size in sizes) and callable(getattr(module, "forward", None)):
        return Size(*sizes)  # type: ignore[arg-type]
    return None


def _computes_otherwise(module: nn.Module) -> bool:
    """Whether it is a family's own kind of nn.Linear: a router, or one of blocks. What peft adds is no sum with it."""
    own = type(module).__module__.startswith("transformers.models.") and isinstance(module, nn.Linear)
    return own and type(module).__name__ not in _LIKE_LINEAR


def _matrices(path: str, module: Any) -> dict[str, Size]:
    if not is_experts(module):
        return {}
    found = {}
    for name in matrix_names(module):
        matrices = getattr(module, name, None)
        if isinstance(matrices, ExpertMatrices):
            expert = matrices.expert(0)
            found[f"{path}.{name}"] = Size(expert.out_features, expert.in_features, matrices.num_experts)
        elif isinstance(matrices, Tensor) and matrices.dim() == 3:
            count, first, second = matrices.shape
            sizes = (second, first) if module.is_transposed else (first, second)
            found[f"{path}.{name}"] = Size(*sizes, count)
    return found


def _routers(path: str, module: nn.Module) -> dict[str, Size]:
    """The children of a mixture that multiply by a weight of their own and are no layer."""
    children = dict(module.named_children())
    if not any(is_experts(child) for child in children.values()):
        return {}
    found = {}
    for name, child in children.items():
        weight = _weight(child)
        if weight is not None and linear_size(child) is None and not is_experts(child):
            found[f"{path}.{name}"] = Size(*weight.shape)
    return found


def _bias(module: nn.Module) -> Tensor | None:
    bias = getattr(module, "bias", None)
    if not isinstance(bias, Tensor) or bias.dim() != 1 or not bias.is_floating_point():
        return None
    return bias.detach().to("cpu", torch.float32, copy=True)


def _weight(module: Any) -> Tensor | None:
    weight = getattr(module, "_parameters", {}).get("weight")
    return weight if weight is not None and weight.is_floating_point() and weight.dim() == 2 else None


def _attention_rows(config: Any, linears: Iterable[str]) -> tuple[int, int, int]:
    """Looked up only where they share a module; other families may have another head size in each layer."""
    if not any(path.endswith(".qkv_proj") for path in linears):
        return 0, 0, 0
    heads = getattr(config, "num_attention_heads", None) or 0
    size = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0)
    keys = (getattr(config, "num_key_value_heads", None) or heads) * size
    return heads * size, keys, keys
