"""Names of tensors in an adapter's file, as peft writes them (read at 0.21), taken apart."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from torch import Tensor

from handler.adapters.adapter import BadAdapter

_HEAD = "base_model.model."
_BASE_LAYER = ".base_layer"
# Other writers leave the adapter's name in; peft's own is "default".
_ADDITION = re.compile(r"(?P<module>.+)\.(?P<kind>lora_(?:embedding_)?[AB])(?:\.default)?(?P<leaf>\.weight|\.bias)?")
_TOKENS = re.compile(r"(?P<module>.+)\.token_adapter\.trainable_tokens_delta(?:\.default)?")
_WHOLE = re.compile(r"(?P<module>.+?)(?:\.modules_to_save(?:\.default)?)?\.(?P<leaf>weight|bias)")


@dataclass(slots=True, eq=False)
class Named:
    """A tensor, and its name in the file."""

    name: str
    tensor: Tensor


@dataclass(slots=True, eq=False)
class Pair:
    """A and B of one product or embedding, and the bias that `lora_bias` gives B."""

    down: Named | None = None
    up: Named | None = None
    bias: Named | None = None
    of_embedding: bool = False

    @property
    def names(self) -> list[str]:
        """Names of all tensors."""
        return [each.name for each in (self.down, self.up, self.bias) if each is not None]


@dataclass(slots=True, eq=False)
class NamedTensors:
    """An adapter's tensors by the path of their module in the model that it was trained on.

    `pairs` keep the `.base_layer` of a path: peft nests what it adds to several matrices of experts. `weights` replace
    a module's; `copies` are of the base's, kept beside an addition. `unknown` are names of another form.
    """

    pairs: dict[str, Pair] = field(default_factory=dict)
    biases: dict[str, Named] = field(default_factory=dict)
    weights: dict[str, Named] = field(default_factory=dict)
    copies: dict[str, Named] = field(default_factory=dict)
    tokens: dict[str, Named] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> NamedTensors:
        """Raises BadAdapter for half of a pair, and for tensors of DoRA."""
        found = cls()
        for name, tensor in tensors.items():
            found._add(name.removeprefix(_HEAD).removeprefix("base_model."), Named(name, tensor))
        for pair in found.pairs.values():
            if pair.down is None or pair.up is None:
                raise BadAdapter(f"the adapter has {pair.names[0]} without the other matrix of its pair")
        return found

    def _add(self, name: str, given: Named) -> None:
        if "lora_magnitude_vector" in name:
            raise BadAdapter(f"the adapter has {given.name}: DoRA scales the base's weights, which is not served")
        if match := _ADDITION.fullmatch(name):
            self._add_half(self.pairs.setdefault(match["module"], Pair()), match["kind"], match["leaf"], given)
        elif match := _TOKENS.fullmatch(name):
            self.tokens[match["module"]] = given
        elif match := _WHOLE.fullmatch(name):
            module = match["module"].removesuffix(_BASE_LAYER)
            is_copy = match["module"].endswith(_BASE_LAYER)
            place = self.biases if match["leaf"] == "bias" else self.copies if is_copy else self.weights
            place[module] = given
        else:
            self.unknown.append(given.name)

    def _add_half(self, pair: Pair, kind: str, leaf: str | None, given: Named) -> None:
        pair.of_embedding = "embedding" in kind
        if leaf == ".bias" and kind == "lora_B":
            pair.bias = given
        elif given.tensor.dim() != 2 or leaf == ".bias":
            raise BadAdapter(f"{given.name} has the shape {tuple(given.tensor.shape)}; a matrix is expected")
        elif kind.endswith("A"):
            pair.down = given
        else:
            pair.up = given


def without_base_layer(path: str) -> str:
    """The module that peft's wrappers stand around."""
    while path.endswith(_BASE_LAYER):
        path = path.removesuffix(_BASE_LAYER)
    return path
