"""What a `quantization_config` says about the weights of each module.

Source of names, defaults and precedence: compressed-tensors 0.20.1, `QuantizationArgs`, `QuantizationConfig` and
`match_targets`. Whether a module is quantised is not asked here: its tensors say so (decision 0109).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handler.formats.name_pattern import matches
from handler.seam.errors import BadModel

_FLOAT_BITS = (4, 6, 8)
_GROUPED = ("group", "tensor_group")
_STRATEGIES = ("tensor", "channel", "block", *_GROUPED)
_AGAIN = "quantise the model again with llm-compressor, or take it in 16 bits"


@dataclass(frozen=True, slots=True)
class WeightArgs:
    """How weights are rounded: the values of `QuantizationArgs` that their tensors do not show.

    `group` is the number of inputs that share a scale, for the strategies `group` and `tensor_group`; `block` is rows
    and columns, for `block`.
    """

    bits: int
    is_float: bool
    is_symmetric: bool
    strategy: str
    group: int = 0
    block: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str) -> WeightArgs:
        """The `weights` of the group `where`. Raises BadModel for values that the library does not write."""
        bits, kind = values.get("num_bits", 8), str(values.get("type", "int")).lower()
        if kind not in ("int", "float") or bits not in (_FLOAT_BITS if kind == "float" else range(1, 9)):
            raise BadModel(f"{where}: weights of type {kind} with num_bits {bits} are not known; {_AGAIN}")
        group = values.get("group_size")
        strategy = str(values.get("strategy") or _inferred(group)).lower()
        block = _block(values.get("block_structure"), where)
        if strategy not in _STRATEGIES or (strategy == "block") != (block is not None):
            raise BadModel(f"{where}: strategy {strategy} with block_structure {block} is not known; {_AGAIN}")
        symmetric = bool(values.get("symmetric", True))
        if strategy not in _GROUPED:
            return cls(bits, kind == "float", symmetric, strategy, block=block or (0, 0))
        if not isinstance(group, int) or group <= 0:
            raise BadModel(f"{where}: strategy {strategy} needs a positive group_size, not {group}; {_AGAIN}")
        return cls(bits, kind == "float", symmetric, strategy, group)


def _inferred(group: Any) -> str:
    """The strategy of a group that names none."""
    if group is None:
        return "tensor"
    return "channel" if group == -1 else "group"


def _block(value: Any, where: str) -> tuple[int, int] | None:
    """Rows and columns; older versions write "128x128"."""
    if value is None:
        return None
    sides = str(value).lower().split("x") if isinstance(value, str) else value
    if isinstance(sides, Sequence) and len(sides) == 2 and all(str(side).isdigit() and int(side) for side in sides):
        return int(sides[0]), int(sides[1])
    raise BadModel(f"{where}: block_structure {value} is not two positive numbers; {_AGAIN}")


@dataclass(frozen=True, slots=True)
class ConfigGroups:
    """The groups of a `quantization_config`.

    `by_target` has the weights' arguments, None for a group of activations only, by target: a module's name, `re:` and
    a pattern that a name begins with, or a class. `version` is that of the library that wrote the files: major, minor.
    """

    by_target: Mapping[str, WeightArgs | None]
    version: tuple[int, int]
    is_decompressed: bool
    rounds_activations: bool
    rounds_cache: bool

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> ConfigGroups:
        """The groups of config.json's `quantization_config`, or of the older `compression_config`.

        Raises BadModel for values that are not known; `stored_codes.refusal` names what no reader reads.
        """
        values = {**values, **_mapping(values, "quantization_config")}
        groups = _mapping(values, "config_groups")
        _check(groups)
        by_target = {
            str(target): WeightArgs.of(weights, name) if (weights := _mapping(group, "weights")) else None
            for name, group in groups.items()
            for target in group.get("targets") or ()
        }
        return cls(
            by_target,
            version=_version(values),
            is_decompressed=values.get("quantization_status") == "decompressed",
            rounds_activations=any(each.get("input_activations") for each in groups.values()),
            rounds_cache=bool(values.get("kv_cache_scheme")),
        )

    def args(self, module: str) -> WeightArgs:
        """The arguments of a quantised module: by its name, then by a pattern, then by its class.

        Raises BadModel if no group has it.
        """
        found = next((args for args in self._matching(module) if args is not None), None)
        if found is None:
            raise BadModel(f"no config group of config.json has {module}, whose weight is quantised; {_AGAIN}")
        return found

    def _matching(self, module: str) -> Iterator[WeightArgs | None]:
        if module in self.by_target:
            yield self.by_target[module]
        for target, args in sorted(self.by_target.items(), key=lambda item: item[0]):
            if target.startswith("re:") and matches(target.removeprefix("re:"), module):
                yield args
        for name in ("Embedding", "Linear") if _is_embedding(module) else ("Linear", "Embedding"):
            if name in self.by_target:
                yield self.by_target[name]
        # Other classes, and names of a module in another place of the tree.
        classes = {args for target, args in self.by_target.items() if args and re.fullmatch(r"[A-Z]\w*", target)}
        if len(classes) == 1:
            yield from classes


def _check(groups: Mapping[str, Any]) -> None:
    """Refuse groups that are no objects, by name."""
    for name, group in groups.items():
        if not isinstance(group, Mapping):
            raise BadModel(f"config group {name} names a scheme and does not spell it out; {_AGAIN}")


def _mapping(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A value that is an object or absent."""
    found = values.get(key) or {}
    if not isinstance(found, Mapping):
        raise BadModel(f"{key} of config.json must be an object, not {str(found)[:80]}; {_AGAIN}")
    return found


def _is_embedding(module: str) -> bool:
    return re.search(r"emb|wte", module.rpartition(".")[2]) is not None


def _version(values: Mapping[str, Any]) -> tuple[int, int]:
    """Files of versions before 0.7 do not say."""
    found = re.match(r"(\d+)\.(\d+)", str(values.get("version", "")))
    return (int(found[1]), int(found[2])) if found else (0, 0)
