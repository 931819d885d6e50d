"""`AdapterConfig`: adapter_config.json of peft (read at 0.21), checked.

What would change the answer and is not done here is refused by its name.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from handler.adapters.adapter import BadAdapter
from handler.adapters.name_match import NamePatterns, is_named, may_end

CONFIG = "adapter_config.json"
_LORA = "LORA"
_BIAS = ("none", "all", "lora_only")
# Values of `init_lora_weights` that leave the base's weights as they were.
KEEPS_BASE = ("gaussian", "eva", "orthogonal")
# Those that peft makes an ordinary adapter of when it saves.
_CONVERTED = ("pissa", "olora", "corda", "lora_ga")
# No effect on what a trained adapter computes: how it was trained, begun or written, and memory layouts of the base.
HARMLESS = frozenset(
    (
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "eva_config",
        "fan_in_fan_out",
        "inference_mode",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
        "velora_config",
    )
)
READ = frozenset(
    (
        "alpha_pattern",
        "bias",
        "ensure_weight_tying",
        "exclude_modules",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_bias",
        "modules_to_save",
        "peft_type",
        "r",
        "rank_pattern",
        "target_modules",
        "target_parameters",
        "trainable_token_indices",
        "use_rslora",
    )
)
# Known variants, and what they would need.
VARIANTS = {
    "alora_invocation_tokens": "an activated LoRA (aLoRA) applies after its invocation tokens only",
    "arrow_config": "Arrow routes each token between adapters",
    "kasa_config": "KaSA changes the base's weights",
    "layer_replication": "it repeats layers of the base",
    "megatron_config": "it is of Megatron's layers",
    "monteclora_config": "MonteCLoRA draws its weights at random",
    "use_bdlora": "BD-LoRA has block-diagonal weights",
    "use_dora": "DoRA scales the base's weights",
    "use_qalora": "QALoRA pools its inputs",
}
# No matrix is larger, and a float holds it.
_MAX_RANK = 1 << 31
_NEUTRAL: tuple[Any, ...] = (None, False, "", [], {})


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """The fields that decide what an adapter adds."""

    r: int
    lora_alpha: float
    use_rslora: bool
    rank_pattern: dict[str, float]
    alpha_pattern: dict[str, float]
    target_modules: frozenset[str] | str | None
    exclude_modules: frozenset[str] | str | None
    target_parameters: frozenset[str]
    layers_to_transform: list[int] | None
    layers_pattern: list[str]
    modules_to_save: frozenset[str]
    trainable_token_indices: list[int] | dict[str, list[int]] | None
    lora_bias: bool
    ensure_weight_tying: bool
    _patterns: NamePatterns = field(default_factory=NamePatterns, repr=False, compare=False)

    def rank(self, *paths: str) -> int:
        """The rank of the module that has these names, the first that a pattern knows (peft's get_pattern_key)."""
        return int(self._by_pattern("rank_pattern", self.rank_pattern, self.r, paths))

    def scaling(self, *paths: str) -> float:
        """What multiplies the module's addition, whose rank is `rank(*paths)`."""
        alpha = self._by_pattern("alpha_pattern", self.alpha_pattern, self.lora_alpha, paths)
        rank = self.rank(*paths)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank

    def targets(self, path: str, *others: str) -> bool:
        """Whether peft puts an addition on the module that is called `path` where it was trained.

        `others` are its names here. Modules are excluded by the first name, and parameters never are (peft's
        check_target_module_exists and _inject_parameters).
        """
        names = (path, *others)
        if any(is_named(f"{name}.weight", self.target_parameters) for name in names):
            return True
        return not self._names(path, self.exclude_modules, "exclude_modules") and any(map(self._targets, names))

    def _targets(self, path: str) -> bool:
        names = self.target_modules
        if names == "all-linear":
            return True
        if names is None or not self._names(path, names, "target_modules"):
            return False
        if isinstance(names, str) or self.layers_to_transform is None or path in names:
            return True
        return self._layer(path) in self.layers_to_transform

    def _layer(self, path: str) -> int | None:
        """The first number in the path, after one of `layers_pattern` if there are any."""
        names = self.layers_pattern or [r"[^.]*"]
        expressions = (rf"(?:^|.*?\.){name}\.(?P<layer>\d+)\..*" for name in names)
        found = self._patterns.first("layers_pattern", expressions, path)
        return None if found is None else int(found[1]["layer"])

    def _by_pattern(self, field: str, patterns: dict[str, float], default: float, paths: tuple[str, ...]) -> float:
        for path in paths:
            expressions = (rf"(.*\.)?({pattern})" if may_end(path, pattern) else None for pattern in patterns)
            found = self._patterns.first(field, expressions, path)
            if found is not None:
                return list(patterns.values())[found[0]]
        return default

    def _names(self, path: str, names: frozenset[str] | str | None, field: str) -> bool:
        if isinstance(names, str):
            return self._patterns.first(field, [names], path) is not None
        return names is not None and is_named(path, names)


def parse_config(text: bytes) -> AdapterConfig:
    """The configuration. Raises BadAdapter with a sentence that names the field."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise BadAdapter(f"{CONFIG} is not valid JSON") from exc
    if not isinstance(fields, dict):
        raise BadAdapter(f"{CONFIG} must hold a JSON object")
    _refuse(fields)
    return AdapterConfig(
        r=_rank(fields.get("r", 8), "r"),
        lora_alpha=_number(fields.get("lora_alpha", 8), "lora_alpha"),
        use_rslora=_flag(fields, "use_rslora"),
        rank_pattern={name: _rank(value, "rank_pattern") for name, value in _object(fields, "rank_pattern").items()},
        alpha_pattern={
            name: _number(value, "alpha_pattern") for name, value in _object(fields, "alpha_pattern").items()
        },
        target_modules=_targets(fields, "target_modules"),
        exclude_modules=_targets(fields, "exclude_modules"),
        target_parameters=frozenset(_strings(fields, "target_parameters")),
        layers_to_transform=_layers(fields.get("layers_to_transform")),
        layers_pattern=_strings(fields, "layers_pattern"),
        modules_to_save=frozenset(_strings(fields, "modules_to_save")),
        trainable_token_indices=_token_indices(fields.get("trainable_token_indices")),
        lora_bias=_flag(fields, "lora_bias"),
        ensure_weight_tying=_flag(fields, "ensure_weight_tying"),
    )


def _refuse(fields: dict[str, Any]) -> None:
    """Raise BadAdapter if a field asks for what is not done here."""
    if fields.get("peft_type") != _LORA:
        raise BadAdapter(f"{CONFIG}: peft_type is {_show(fields.get('peft_type'))}; only LORA adapters are served")
    for name, reason in VARIANTS.items():
        if fields.get(name) not in _NEUTRAL:
            raise BadAdapter(f"{CONFIG}: {name} is set; {reason}, which is not served")
    for name, value in fields.items():
        if name not in HARMLESS | READ | VARIANTS.keys() and value not in _NEUTRAL:
            raise BadAdapter(f"{CONFIG}: the field {_show(name)} is not known, and may change what is computed")
    init = fields.get("init_lora_weights", True)
    if not isinstance(init, bool) and init is not None and str(init).lower() not in KEEPS_BASE:
        advice = (
            "; save the adapter with path_initial_model_for_weight_conversion, which makes it an ordinary one"
            if str(init).lower().startswith(_CONVERTED)
            else ""
        )
        raise BadAdapter(f"{CONFIG}: init_lora_weights is {_show(init)}, which changes the base's weights{advice}")
    if fields.get("bias", "none") not in _BIAS:
        raise BadAdapter(f"{CONFIG}: bias is {_show(fields['bias'])}; it must be one of {', '.join(_BIAS)}")


def _show(value: Any) -> str:
    return repr(value)[:100]


def _rank(value: Any, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_RANK:
        raise BadAdapter(f"{CONFIG}: {field} must be a positive integer, not {_show(value)}")
    return value


def _number(value: Any, field: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            found = float(value)
        except OverflowError:  # JSON's integers have no end
            found = math.inf
        if math.isfinite(found):
            return found
    raise BadAdapter(f"{CONFIG}: {field} must be a finite number, not {_show(value)}")


def _flag(fields: dict[str, Any], field: str) -> bool:
    value = fields.get(field)
    if not isinstance(value, bool | None):
        raise BadAdapter(f"{CONFIG}: {field} must be true or false, not {_show(value)}")
    return bool(value)


def _object(fields: dict[str, Any], field: str) -> dict[str, Any]:
    value = fields.get(field) or {}
    if not isinstance(value, dict):
        raise BadAdapter(f"{CONFIG}: {field} must be an object, not {_show(value)}")
    return value


def _strings(fields: dict[str, Any], field: str) -> list[str]:
    value = fields.get(field) or []
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise BadAdapter(f"{CONFIG}: {field} must be a list of names, not {_show(value)}")
    return value


def _targets(fields: dict[str, Any], field: str) -> frozenset[str] | str | None:
    value = fields.get(field)
    if isinstance(value, str) and value:
        return "all-linear" if value.lower() == "all-linear" else value
    return frozenset(_strings(fields, field)) if value else None


def _layers(value: Any) -> list[int] | None:
    if value is None or value == []:
        return None
    layers = [value] if isinstance(value, int) else value
    if not isinstance(layers, list) or not all(isinstance(each, int) for each in layers):
        raise BadAdapter(f"{CONFIG}: layers_to_transform must be a list of numbers, not {_show(value)}")
    return layers


def _token_indices(value: Any) -> list[int] | dict[str, list[int]] | None:
    lists = value.values() if isinstance(value, dict) else [value]
    if value is not None and not all(_are_ids(each) for each in lists):
        raise BadAdapter(f"{CONFIG}: trainable_token_indices must hold lists of token ids, not {_show(value)}")
    found: list[int] | dict[str, list[int]] | None = value
    return found


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) is int and each >= 0 for each in value)
