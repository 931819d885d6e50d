"""gpt-oss in llama.cpp's files: the names of tensors, and rows that take turns."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from transformers import AutoConfig, AutoModelForCausalLM

from handler.formats.gguf.gpt_oss import GptOssProcessing, is_turned, weight_name

FIXTURE = Path(__file__).resolve().parents[3] / "data" / "formats" / "llama_cpp-gpt-oss"


def test_every_tensor_of_a_file_is_a_weight_of_the_model_and_the_reverse() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(FIXTURE))
    tensors = [str(tensor.name) for tensor in GGUFReader(FIXTURE / "model.gguf").tensors]
    assert {weight_name(tensor) for tensor in tensors} == set(model.state_dict())


@pytest.mark.parametrize("tensor", ["rope_freqs.weight", "blk.0.ffn_norm.weight", "blk.0.ffn_gate_up_exps.weight", "x"])
def test_other_tensors_are_none_of_its_weights(tensor: str) -> None:
    assert weight_name(tensor) == ""


@pytest.mark.parametrize("order", permutations(("gate", "up")))
def test_gates_and_up_projections_take_turns_in_whatever_order_they_are_stored(order: tuple[str, str]) -> None:
    gate, up = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
    held = {"gate": gate, "up": up}
    made = GptOssProcessing().process({f"blk.0.ffn_{name}_exps.weight": held[name] for name in order})
    assert made.shape == (2, 6, 4)
    assert made[1, :, 2].tolist() == [0, 1] * 3
    biases = {f"blk.0.ffn_{name}_exps.bias": held[name][..., 0] for name in order}
    assert GptOssProcessing().process(biases).tolist() == [[0, 1] * 3] * 2


def test_matrices_of_experts_are_turned_and_their_biases_are_not() -> None:
    layer = "model.layers.3.mlp"
    assert is_turned(f"{layer}.experts.gate_up_proj")
    assert is_turned(f"{layer}.experts.down_proj")
    assert not any(map(is_turned, (f"{layer}.experts.down_proj_bias", f"{layer}.router.weight")))
