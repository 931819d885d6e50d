"""Numbers of a model's weights by what quantisation does with them, from its `config.json`.

Counted as transformers builds the model: experts of one layer are one parameter of three dimensions, and the output
layer is a parameter of its own unless it is tied. Within 3 % for the families that the tests name; a family of other
layers may be off by more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Families whose output layer is tied where config.json does not say (transformers 5.23).
TIED_BY_DEFAULT = frozenset(
    {
        "bloom",
        "cohere",
        "cohere2",
        "cohere2_moe",
        "ernie4_5",
        "ernie4_5_moe",
        "falcon",
        "gemma",
        "gemma2",
        "gemma3",
        "gemma3_text",
        "gemma3n",
        "gemma3n_text",
        "gemma4",
        "gemma4_text",
        "gpt2",
        "gpt_bigcode",
        "gpt_neo",
        "lfm2",
        "lfm2_moe",
        "mpt",
        "opt",
        "recurrent_gemma",
        "smollm3",
        "starcoder2",
        "vaultgemma",
        "xglm",
    }
)
# Families whose MLP has two matrices, without a gate.
_UNGATED = frozenset(
    {
        "apertus",
        "arcee",
        "bloom",
        "codegen",
        "falcon",
        "gpt2",
        "gpt_bigcode",
        "gpt_neo",
        "gpt_neox",
        "gptj",
        "mpt",
        "nemotron",
        "opt",
        "persimmon",
        "phi",
        "starcoder2",
        "xglm",
    }
)
# What published config.json files leave out, because transformers' class says it (transformers 5.23).
_LEFT_OUT: dict[str, Mapping[str, Any]] = {
    "gemma3_text": {"vocab_size": 262_208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256},
}
# Where the configuration of a multimodal model has that of its text decoder; the last is Qwen Omni's.
TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")
# Families with experts of their own kind (transformers 5.23).
_KEEP_EXPERTS = frozenset({"dbrx", "jetmoe", "llama4", "llama4_text", "longcat_flash", "step3p7", "step3p7_text"})
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_CHOSEN = ("num_experts_per_tok", "moe_k")
_SHARED = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
_SHARED_WIDTH = ("shared_expert_intermediate_size", "shared_intermediate_size")


@dataclass(frozen=True, slots=True)
class WeightCounts:
    """Numbers of weights: `linears` in linear layers, `experts` in parameters of three dimensions.

    `embeddings` are the input layer, which is the output layer too if they are tied; `output` is an output layer of its
    own; `other` are norms and routers. `keeps_experts`: the family's own code multiplies the experts, outside
    transformers' interface, so they keep the dtype.
    """

    linears: int
    experts: int
    embeddings: int
    other: int = 0
    output: int = 0
    keeps_experts: bool = False

    @property
    def total(self) -> int:
        return self.linears + self.experts + self.embeddings + self.other + self.output

    def scaled_to(self, total: int) -> WeightCounts:
        """The counts of a model of `total` weights, known from its files; input and output layer stay if they can."""
        vocabulary = self.embeddings + self.output
        fixed = vocabulary if total > vocabulary else 0
        factor = (total - fixed) / max(1, self.total - fixed)
        linears, experts, other = (int(count * factor) for count in (self.linears, self.experts, self.other))
        embeddings, output = (count if fixed else int(count * factor) for count in (self.embeddings, self.output))
        rest = total - experts - embeddings - other - output
        return WeightCounts(rest if linears else 0, experts, embeddings, other, output, self.keeps_experts)


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The configuration of the text decoder inside that of a multimodal model; None if there is none."""
    return next((part for name in TEXT_PARTS if isinstance(part := config.get(name), Mapping)), None)


def text_values(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values of the text decoder, also of a multimodal model, whose own come first unless they are null."""
    found = dict(config)
    nested = text_part(config)
    while nested is not None:
        found |= {name: value for name, value in nested.items() if value is not None}
        nested = text_part(nested)
    return {**_LEFT_OUT.get(str(found.get("model_type")), {}), **found}


def count_weights(config: Mapping[str, Any]) -> WeightCounts:
    """The counts for a parsed `config.json`. Raises KeyError, TypeError, ValueError or ArithmeticError."""
    text = text_values(config)
    hidden, layers = hidden_size(text), num_layers(text)
    attention = layers * _attention(text)
    sparse = num_sparse_layers(text)
    linears = attention + (layers - sparse) * _dense_mlp(text) + sparse * _shared_expert(text)
    experts = sparse * _num_experts(text) * 3 * hidden * _expert_width(text)
    other = layers * 2 * hidden + sparse * hidden * _num_experts(text)
    embeddings = int(text["vocab_size"]) * hidden
    output = 0 if _is_tied(text) else embeddings
    return WeightCounts(linears, experts, embeddings, other, output, text.get("model_type") in _KEEP_EXPERTS)


def has_experts(text: Mapping[str, Any]) -> bool:
    """True if these values of a text decoder name a mixture of experts."""
    return _first(text, *_EXPERTS, *_CHOSEN) > 0


def num_layers(text: Mapping[str, Any]) -> int:
    return int(_first(text, "num_hidden_layers", "n_layer", "n_layers", "num_layers") or text["num_hidden_layers"])


def hidden_size(text: Mapping[str, Any]) -> int:
    return int(_first(text, "hidden_size", "n_embd", "d_model") or text["hidden_size"])


def num_heads(text: Mapping[str, Any]) -> int:
    return int(_first(text, "num_attention_heads", "n_head", "n_heads") or text["num_attention_heads"])


def num_kv_heads(text: Mapping[str, Any]) -> int:
    if text.get("multi_query") and not text.get("new_decoder_architecture"):
        return 1
    return int(_first(text, "num_key_value_heads", "num_kv_heads") or num_heads(text))


def head_size(text: Mapping[str, Any]) -> int:
    return int(text.get("head_dim") or hidden_size(text) // num_heads(text))


def _first(text: Mapping[str, Any], *names: str) -> int:
    """The first of these values that is a positive number, 0 if none is."""
    return next((found for name in names if isinstance(found := text.get(name), int) and found > 0), 0)


def _is_tied(text: Mapping[str, Any]) -> bool:
    stated = text.get("tie_word_embeddings")
    return text.get("model_type") in TIED_BY_DEFAULT if stated is None else bool(stated)


def _attention(text: Mapping[str, Any]) -> int:
    """Weights of one layer's attention, latent (DeepSeek's) or plain."""
    hidden, heads = hidden_size(text), num_heads(text)
    if "kv_lora_rank" in text:
        rope, value = int(text["qk_rope_head_dim"]), int(text["v_head_dim"])
        key, rank = int(text["qk_nope_head_dim"]), int(text["kv_lora_rank"])
        low = int(text.get("q_lora_rank") or 0)
        queries = (hidden * low + low * heads * (key + rope)) if low else hidden * heads * (key + rope)
        return queries + hidden * (rank + rope) + rank * heads * (key + value) + heads * value * hidden
    return hidden * head_size(text) * (2 * heads + 2 * num_kv_heads(text))


def _dense_mlp(text: Mapping[str, Any]) -> int:
    return (2 if is_ungated(text) else 3) * hidden_size(text) * dense_width(text)


def is_ungated(text: Mapping[str, Any]) -> bool:
    """True if the MLP has two matrices, without a gate."""
    return text.get("model_type") in _UNGATED


def dense_width(text: Mapping[str, Any]) -> int:
    """Inner width of the MLP in a layer without experts."""
    width = _first(text, "intermediate_size_mlp", "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
    return width or 4 * hidden_size(text)


def _num_experts(text: Mapping[str, Any]) -> int:
    return _first(text, *_EXPERTS)


def _expert_width(text: Mapping[str, Any]) -> int:
    return _first(text, "moe_intermediate_size", "intermediate_size", "ffn_dim") or 4 * hidden_size(text)


def _shared_expert(text: Mapping[str, Any]) -> int:
    """Weights of the experts that every token takes, in one layer."""
    return 3 * hidden_size(text) * shared_width(text)


def shared_width(text: Mapping[str, Any]) -> int:
    """Inner width of the expert that every token takes; 0 without."""
    if text.get("model_type") in ("llama4", "llama4_text"):
        return _expert_width(text)
    return _first(text, *_SHARED_WIDTH) or _first(text, *_SHARED) * _expert_width(text)


def num_sparse_layers(text: Mapping[str, Any]) -> int:
    """Layers that hold experts."""
    layers = num_layers(text)
    if _num_experts(text) <= 1 or text.get("enable_moe_block") is False:
        return 0
    kinds = text.get("mlp_layer_types")
    if isinstance(kinds, list):
        return sum(kind != "dense" for kind in kinds)
    if isinstance(listed := text.get("moe_layers"), list):
        return sum(i < layers for i in listed)
    step = _first(text, "decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_freq", "moe_layer_interval")
    dense = _first(text, "first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
    without = set(text.get("mlp_only_layers") or ())
    offset = 0 if "moe_layer_freq" in text else 1  # DeepSeek counts layers from 0, the others from 1
    return sum(i >= dense and i not in without and (i + offset) % (step or 1) == 0 for i in range(layers))
