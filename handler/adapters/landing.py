"""`Landing`: where in the loaded model the addition to a module of an adapter's file belongs.

Names may be of another time or class than the loaded model's: of checkpoints before transformers renamed, fused or
split them, and of a whole image-text model of which only the language part is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from transformers.core_model_loading import (
    Chunk,
    Concatenate,
    MergeModulelist,
    Transpose,
    WeightConverter,
    WeightRenaming,
    rename_source_key,
)

from handler.adapters.fused_names import FUSED
from handler.adapters.model_shape import ModelShape, Size

# Heads of paths that stand for the same model: the text part of a whole one, or the base of a causal one.
_HEADS = frozenset({"model", "language_model", "text_model", "transformer", "base_model"})


@dataclass(frozen=True, slots=True)
class Landing:
    """Rows `start` to `stop` of the outputs of `path`, from rows `first` to `last` of the file's B; None: all of them.

    `expert` is the number of the expert whose product it is; None for all experts, and for a linear layer.
    """

    path: str
    start: int | None = None
    stop: int | None = None
    first: int | None = None
    last: int | None = None
    expert: int | None = None


class Landings:
    """Finds the landings of names in an adapter's file."""

    def __init__(self, shape: ModelShape) -> None:
        self._shape = shape
        self._by_body: dict[str, str] = {}
        for path in (
            *shape.experts,
            *shape.linears,
            *shape.routers,
            *shape.biases,
            *filter(None, [shape.input_embedding]),
        ):
            self._by_body[_body(path)] = path
        for path in shape.experts:
            self._by_body.setdefault(_body(path.rpartition(".")[0]), path.rpartition(".")[0])
        self._products = shape.linears | shape.routers
        # A conversion's memory of what matched must not outlive one file, so each is used for names alone.
        self._renamings = [each for each in shape.conversions if isinstance(each, WeightRenaming)]
        self._converters = [each for each in shape.conversions if isinstance(each, WeightConverter)]
        self._weights = {f"{path}.weight": True for path in self._products} | dict.fromkeys(shape.experts, True)

    def module(self, path: str) -> str | None:
        """The module of the model that `path` names, as it is or with another head; None without."""
        return self._by_body.get(_body(path)) or self._by_body.get(_body(self._renamed(path)[0]))

    def products(self, path: str) -> list[Landing]:
        """Where the addition to the product `path` lands; [] if nowhere."""
        found = self._by_body.get(_body(path))
        if found is not None and found in self._products:
            return [Landing(found)]
        return self._in_fused(path) or self._over_parts(path) or self._converted(path)

    def _renamed(self, path: str) -> tuple[str, str | None]:
        """The path as transformers would rename the module's weight, and the pattern of a conversion that matched."""
        name, pattern = rename_source_key(
            f"{path}.weight", self._renamings, self._converters, self._shape.prefix, self._weights
        )
        return name.removesuffix(".weight"), pattern

    def _in_fused(self, path: str) -> list[Landing]:
        """A part of a module that is fused in the model."""
        before, _, leaf = path.rpartition(".")
        for whole, parts in FUSED.items():
            found = self._by_body.get(_body(f"{before}.{whole}"))
            if leaf in parts and found in self._shape.linears:
                return [_part(found, self._shape.linears[found], self._rows(whole), parts.index(leaf))]
        return []

    def _over_parts(self, path: str) -> list[Landing]:
        """A fused module that is split in the model."""
        before, _, leaf = path.rpartition(".")
        found = [self._by_body.get(_body(f"{before}.{part}")) for part in FUSED.get(leaf, ())]
        return self._split([each for each in found if each is not None]) if found and None not in found else []

    def _split(self, paths: list[str]) -> list[Landing]:
        ends = [0]
        for path in paths:
            size = self._shape.linears.get(path)
            if size is None:
                return []
            ends.append(ends[-1] + size.num_outputs)
        return [Landing(path, first=ends[i], last=ends[i + 1]) for i, path in enumerate(paths)]

    def _rows(self, whole: str) -> tuple[int, ...] | None:
        """Outputs of each part of a fused module; None if they are equal."""
        return self._shape.attention_rows if whole == "qkv_proj" else None

    def _converted(self, path: str) -> list[Landing]:
        """By transformers' conversion of the module's weight."""
        renamed, pattern = self._renamed(path)
        found = self._by_body.get(_body(renamed))
        if pattern is None:
            return [Landing(found)] if found is not None and found in self._products else []
        converter = next(each for each in self._converters if pattern in each.source_patterns)
        steps = [step for step in converter.operations if not isinstance(step, Transpose)]
        if [type(step) for step in steps] == [Chunk]:
            return self._chunks(renamed, converter)
        if found is None or not {type(step) for step in steps} <= {MergeModulelist, Concatenate}:
            return []
        return self._joined(path, found, converter, pattern)

    def _chunks(self, renamed: str, converter: Any) -> list[Landing]:
        """`renamed` is the first part's."""
        first, *others = (pattern.removesuffix(".weight").strip("\\.") for pattern in converter.target_patterns)
        found = [self._by_body.get(_body(renamed.replace(first, part, 1))) for part in (first, *others)]
        return self._split([each for each in found if each is not None]) if None not in found else []

    def _joined(self, path: str, found: str, converter: Any, pattern: str) -> list[Landing]:
        parts = list(converter.source_patterns)
        size = self._shape.size(found)
        if size is None:
            return []
        landing = Landing(found)
        if len(parts) > 1:
            landing = _part(found, size, self._rows(found.rpartition(".")[2]), parts.index(pattern), len(parts))
        if found in self._shape.experts:
            numbers = [int(each) for each in path.split(".") if each.isdecimal()]
            if not numbers or numbers[-1] >= size.num_experts:
                return []
            return [replace(landing, expert=numbers[-1])]
        return [landing]


def _part(path: str, size: Size, rows: tuple[int, ...] | None, index: int, count: int = 2) -> Landing:
    """Part `index` of the outputs of `path`: of these rows, or of `count` equal ones."""
    sizes = rows if rows is not None and sum(rows) == size.num_outputs else (size.num_outputs // count,) * count
    start = sum(sizes[:index])
    return Landing(path, start, start + sizes[index])


def _body(path: str) -> str:
    """The path without what its head says about the class of the model."""
    parts = path.split(".")
    while len(parts) > 1 and parts[0] in _HEADS:
        del parts[0]
    return ".".join(parts)
