"""What a .gguf file says, and transformers leaves out, is in the configuration."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma4TextConfig, GptOssConfig, LlamaConfig, Qwen3MoeConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from handler.model.gguf.values import ROPE_FACTORS, complete


def reader(values: dict[str, Any], tensors: dict[str, Any] | None = None) -> Any:
    fields = {key: SimpleNamespace(contents=lambda value=value: value) for key, value in values.items()}
    held = [SimpleNamespace(name=name, data=data) for name, data in (tensors or {}).items()]
    return SimpleNamespace(fields=fields, tensors=held)


def llama(**changes: Any) -> LlamaConfig:
    rope = {"rope_type": "default", "rope_theta": 500_000.0}
    return LlamaConfig(
        hidden_size=256, num_attention_heads=2, head_dim=128, max_position_embeddings=131_072, rope_parameters=rope
    )


def frequencies(config: Any) -> torch.Tensor:
    kind = config.rope_parameters["rope_type"]
    found, scaling = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    assert scaling == 1.0
    return found


def plain() -> torch.Tensor:
    return 1 / 500_000 ** (torch.arange(0, 128, 2).float() / 128)


def llama3() -> LlamaConfig:
    """As the configurations of Llama 3.1 and 3.2 are published."""
    published = llama()
    published.rope_parameters |= {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0}
    published.rope_parameters |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    return published


def test_the_factors_of_llama_3_are_its_rope_type() -> None:
    published = llama3()
    factors = (plain() / frequencies(published)).numpy()
    config = llama()
    complete(config, "llama", [reader({}, {ROPE_FACTORS: factors})])
    assert config.rope_parameters == published.rope_parameters


def test_other_factors_divide_the_frequencies() -> None:
    factors = np.linspace(1, 7, 64, dtype=np.float32)
    config = llama()
    complete(config, "llama", [reader({}), reader({}, {ROPE_FACTORS: factors})])
    torch.testing.assert_close(frequencies(config), plain() / torch.from_numpy(factors))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"type": "none"}, {"rope_type": "default"}),
        ({"type": "linear", "factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        (
            {"type": "yarn", "factor": 4.0, "original_context_length": 32_768},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768},
        ),
    ],
)
def test_scaling_that_the_metadata_state(said: dict[str, Any], expected: dict[str, Any]) -> None:
    config = llama()
    complete(config, "llama", [reader({f"llama.rope.scaling.{key}": value for key, value in said.items()})])
    assert config.rope_parameters == {"rope_theta": 500_000.0, **expected}


def test_sizes_that_are_not_the_ones_of_the_class() -> None:
    config = Qwen3MoeConfig()
    said = {"attention.key_length": 64, "expert_feed_forward_length": 1536, "expert_shared_feed_forward_length": 7}
    complete(config, "qwen3moe", [reader({f"qwen3moe.{key}": value for key, value in said.items()})])
    assert (config.head_dim, config.moe_intermediate_size) == (64, 1536)
    assert not hasattr(config, "shared_expert_intermediate_size"), "a family without shared experts"


@pytest.mark.parametrize(
    ("said", "expected"),
    [({}, 8), ({"attention.key_length_swa": 16}, 16)],
    ids=["transformers' default stays", "the file says it"],
)
def test_gemma_4_has_two_lengths_of_keys(said: dict[str, int], expected: int) -> None:
    layers = ["sliding_attention", "full_attention"]
    config = Gemma4TextConfig(num_hidden_layers=2, layer_types=layers, head_dim=8, global_head_dim=32)
    said = {"attention.key_length": 32, **said}
    complete(config, "gemma4", [reader({f"gemma4.{key}": value for key, value in said.items()})])
    assert [layer.head_dim for layer in config.per_layer_config] == [expected, 32]


def test_a_length_of_windowed_layers_alone_changes_no_other_family() -> None:
    config = llama()
    complete(config, "llama", [reader({"llama.attention.key_length_swa": 64})])
    assert config.head_dim == 128


def test_gpt_oss_has_yarn_as_far_as_the_file_says_and_its_window() -> None:
    values = {"attention.sliding_window": 64, "attention.key_length": 32, "rope.scaling.type": "yarn"}
    values |= {"rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 2048}
    complete(config := GptOssConfig(), "gpt-oss", [reader({f"gpt-oss.{key}": each for key, each in values.items()})])
    assert (config.sliding_window, config.head_dim) == (64, 32)
    published = GptOssConfig().rope_parameters
    assert config.rope_parameters == published | {"factor": 4.0, "original_max_position_embeddings": 2048}
    complete(config := GptOssConfig(), "gpt-oss", [reader({})])
    assert (config.sliding_window, config.rope_parameters) == (128, published)
