"""`ACTIVATION_DTYPE=int8`: from the configuration to tokens, and where it cannot be done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from handler.engine.core import EngineCore
from handler.kernels.product.rounded.activations import ACTIVATIONS
from handler.scheduling.sequence import Sequence
from handler.seam.config import ActivationDtype, EngineConfig, Quantize
from handler.seam.errors import BadConfiguration
from handler.seam.protocol import GenerateRequest, SamplingParams
from handler.seam.status import StatusBoard
from handler.startup import start
from tests.support import tiny_models

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 32}
SIZES |= {"num_key_value_heads": 2}


@pytest.fixture(autouse=True)
def restored_libraries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a start sets for its process."""
    monkeypatch.setattr(ACTIVATIONS, "wants_int8", False)
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save("llama", tmp_path_factory.mktemp("model"), **SIZES)


def started(directory: Path, tmp_path: Path, **settings: Any) -> EngineCore:
    values = {"device": "cpu", "dtype": "bfloat16", "quantize": Quantize.INT4_BLOCKS, "num_threads": 2} | settings
    config = EngineConfig(
        model=str(directory),
        cache_dir=str(tmp_path),
        socket_path=str(tmp_path / "socket"),
        activation_dtype=ActivationDtype.INT8,
        **values,
    )
    core, _ = start(config, StatusBoard(tmp_path / "board", create=True))
    core.socket.close()
    return core


def greedy(core: EngineCore, *prompts: list[int]) -> list[list[int]]:
    sampling = SamplingParams(max_tokens=8, seed=0, temperature=0.0, ignore_eos=True)
    requests = [GenerateRequest(str(i), prompt, sampling, 600.0) for i, prompt in enumerate(prompts)]
    sequences = [Sequence(request, b"", 0.0, float("inf")) for request in requests]
    core.generate_for_warm_up(*sequences)
    return [sequence.token_ids[len(sequence.request.prompt_token_ids) :] for sequence in sequences]


@pytest.mark.needs("avx512_vnni")
def test_a_model_is_proved_exactly_and_served_rounded(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("handler.linears.choice.multiplies_matrices", lambda: False)
    caplog.set_level("INFO")
    core = started(directory, tmp_path)
    assert ACTIVATIONS.is_int8
    assert "activations of 15 layers are rounded to int8, those of 0 are not" in caplog.text
    assert "2 layers are fused, 2 of them run in one call" in caplog.text
    layers: Any = core.runner.loaded.model.model.layers
    for parts in (parts for stack in layers for parts in stack.parts):
        projections = (parts.qkv_proj, parts.o_proj, parts.gate_proj, parts.up_proj, parts.down_proj)
        assert all(layer.rounds for layer in projections)
    prompts = [[(i * 7 + 11 * j + 3) % 250 for j in range(3 + 6 * i)] for i in range(5)]
    together = greedy(core, *prompts)
    assert [greedy(core, prompt)[0] for prompt in prompts] == together
    core.shut_down()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"quantize": Quantize.NONE}, "the model has no weights of 4 to 8 bits"),
        ({"dtype": "float32"}, "it needs DTYPE=bfloat16 and a processor with AVX-512 for bfloat16"),
    ],
)
def test_where_it_cannot_be_done_the_start_says_why(
    settings: dict[str, Any], reason: str, directory: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadConfiguration, match=f"ACTIVATION_DTYPE=int8 cannot be done here: {reason}"):
        started(directory, tmp_path, **settings)


@pytest.mark.needs("avx512_bf16")
def test_a_matrix_unit_multiplies_by_bfloat16(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handler.linears.rounded.multiplies_matrices", lambda: True)
    monkeypatch.setattr("handler.kernels.product.product.multiplies_bytes", lambda: False)
    with pytest.raises(BadConfiguration, match="this processor's matrix unit"):
        started(directory, tmp_path)
