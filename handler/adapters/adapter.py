"""`Adapter`: what a low-rank adapter adds to a loaded model, by module path, whatever form its files had."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


class BadAdapter(Exception):
    """An adapter that cannot be loaded onto this model; one sentence for a client, which names the field or tensor."""


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """What an adapter adds to one product: `y += scaling * (x A^T) B^T`."""

    down: Tensor  # A [r, K], as stored: float32, bfloat16 or float16
    up: Tensor  # B [N, r]
    scaling: float

    @property
    def rank(self) -> int:
        """r; of a fused module, the sum of its parts' ranks."""
        return len(self.down)


@dataclass(frozen=True, slots=True, eq=False)
class ExpertLowRank:
    """The same for each expert: row x of expert e gets `scaling * (x A_e^T) B_e^T`."""

    down: Tensor  # A [E, r, K]
    up: Tensor  # B [E, N, r]
    scaling: float

    @property
    def rank(self) -> int:
        """r of one expert."""
        return self.down.shape[1]


@dataclass(frozen=True, slots=True, eq=False)
class TokenLowRank:
    """What an adapter adds to a token's embedding: `scaling * rows[token] B^T`."""

    rows: Tensor  # A^T [vocab, r]
    up: Tensor  # B [hidden, r]
    scaling: float


@dataclass(frozen=True, slots=True, eq=False)
class TokenRows:
    """Rows of an embedding or output weight that stand in place of the base's (peft's trainable tokens)."""

    token_ids: Tensor  # int64 [n]
    values: Tensor  # [n, hidden]


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """All additions of one adapter, on the CPU, checked against the model: shapes fit and every number is finite.

    Keys are module paths in the loaded model as transformers makes it, before a runner changes it:
    `model.layers.0.self_attn.q_proj`. Where that module is fused (`qkv_proj`), the key is the fused module's and the
    addition is of the whole: A stacked, B by blocks. `experts` has paths of matrices, as
    `model.layers.0.mlp.experts.gate_up_proj`, with N outputs and K inputs whatever way the family stores them.
    `routers` are products whose result only their own module sees, which chooses experts by it; `router_biases` are
    changes of their biases.

    `bias_changes` `[N]` float32 are added to the output of the module: the adapter's bias less the base's, and what
    `lora_bias` adds. The module may be a norm. `weights` `[N, K]` take the place of the base's in embeddings and
    output layer. `packed` is what a runner made of some of these in advance (`Runner.prepare_adapter`); those are no
    longer here then. `max_rank` is the largest rank of a product, of the parts before they are stacked.
    """

    products: dict[str, LowRank] = field(default_factory=dict)
    experts: dict[str, ExpertLowRank] = field(default_factory=dict)
    routers: dict[str, LowRank] = field(default_factory=dict)
    router_biases: dict[str, Tensor] = field(default_factory=dict)
    bias_changes: dict[str, Tensor] = field(default_factory=dict)
    embeddings: dict[str, TokenLowRank] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    token_rows: dict[str, TokenRows] = field(default_factory=dict)
    packed: object = None
    max_rank: int = 0
    num_bytes: int = 0
    unused: tuple[str, ...] = ()  # names of tensors that landed nowhere; logged

    @property
    def paths(self) -> frozenset[str]:
        """Every module or matrix that the adapter changes."""
        products = (*self.products, *self.experts, *self.routers, *self.router_biases)
        return frozenset({*products, *self.bias_changes, *self.embeddings, *self.weights, *self.token_rows})
