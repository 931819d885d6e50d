"""gpt-oss in llama.cpp's files: names and changes of its tensors.

transformers (5.24) names the architecture in its tables, with other names of the experts' tensors than files have.
Source: llama.cpp's converter (`GptOssModel`) and the package gguf's table of names.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

ARCHITECTURE = "gpt-oss"
_ENDS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_gate_inp": "mlp.router",
}
# Parameters of a module, not weights and biases of their own ones.
_PARAMETERS = {
    "attn_sinks.weight": "self_attn.sinks",
    "ffn_gate_exps.weight": "mlp.experts.gate_up_proj",
    "ffn_up_exps.weight": "mlp.experts.gate_up_proj",
    "ffn_down_exps.weight": "mlp.experts.down_proj",
    "ffn_gate_exps.bias": "mlp.experts.gate_up_proj_bias",
    "ffn_up_exps.bias": "mlp.experts.gate_up_proj_bias",
    "ffn_down_exps.bias": "mlp.experts.down_proj_bias",
}
_TURNED = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")


def weight_name(tensor: str) -> str:
    """The weight of transformers' `GptOssForCausalLM` that a tensor is, or is half of; "" for none."""
    stem, _, suffix = tensor.rpartition(".")
    if stem in _ENDS:
        return f"{_ENDS[stem]}.{suffix}"
    block, _, rest = tensor.partition(".")
    number, _, name = rest.partition(".")
    if block != "blk":
        return ""
    if name in _PARAMETERS:
        return f"model.layers.{number}.{_PARAMETERS[name]}"
    module = _LAYER.get(name.rpartition(".")[0])
    return f"model.layers.{number}.{module}.{suffix}" if module is not None else ""


def is_turned(weight: str) -> bool:
    """Whether the model has a dense weight as `[E, K, N]`, and files as `[E, N, K]`."""
    return weight.endswith(_TURNED)


class GptOssProcessing:
    """`Processing`: rows of a gate and of an up projection take turns."""

    def process(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """As `Processing`; matrices of experts are `[E, N, K]`, also where the model turns them."""
        if len(tensors) == 1:
            return next(iter(tensors.values()))
        gate, up = sorted(tensors, key=lambda name: "ffn_up" in name)
        axis = -2 if gate.endswith(".weight") else -1
        return torch.stack([tensors[gate], tensors[up]], axis).flatten(axis - 1, axis)
