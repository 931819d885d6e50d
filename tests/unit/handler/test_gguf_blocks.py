"""Quantised matrices of real GGUF files, whatever they carry: kept as they are, to the last bit, or left dense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import dequantize
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from handler.linears.quantised_weight import QuantisedWeight
from handler.linears.weight_blocks import BLOCK, load_blocks, save_blocks
from handler.model.gguf_blocks import _decode, read_blocks

Kind = GGMLQuantizationType
KEPT = [Kind.Q4_0, Kind.Q4_1, Kind.Q8_0]
HIDDEN, HEADS, KV_HEADS, VOCAB = 256, 4, 2, 64
# float16: both zeros, the least number, the largest.
EXTREMES = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x7BFF, 0xFBFF]


def raw(kind: Kind, rows: int, columns: int, seed: int, scales: list[int] | None = None) -> Any:
    """A matrix of random bytes; `scales` are the float16 numbers its blocks have, else ordinary ones."""
    rng = np.random.default_rng(seed)
    per_block, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows, columns // per_block, size), dtype=np.uint8)
    # Q6_K has its scale behind the codes.
    for first in {Kind.Q4_1: (0, 2), Kind.Q6_K: (size - 2,)}.get(kind, (0,)):
        if scales is None:
            halves = (rng.standard_normal(blocks.shape[:2]) * 0.01).astype(np.float16)
        else:
            halves = rng.choice(np.array(scales, dtype=np.uint16), blocks.shape[:2]).view(np.float16)
        blocks[..., first : first + 2] = halves[..., None].view(np.uint8)
    return blocks.reshape(rows, -1)


def write(path: Path, tensors: dict[str, tuple[Kind, Any]]) -> GGUFReader:
    """A Llama of one layer."""
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCAB)
    for name, (kind, data) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GGUFReader(path)


def llama(kinds: dict[str, Kind], **matrices: Any) -> dict[str, tuple[Kind, Any]]:
    """All its tensors: random bytes of `kinds`, by name, Q4_1 where none is given."""
    kv = HIDDEN * KV_HEADS // HEADS
    rows = {"attn_q": HIDDEN, "attn_k": kv, "attn_v": kv, "attn_output": HIDDEN}
    rows |= {"ffn_gate": HIDDEN, "ffn_up": HIDDEN, "ffn_down": HIDDEN}
    found = {"token_embd.weight": (kinds.get("token_embd", Kind.Q8_0), VOCAB)}
    found |= {f"blk.0.{name}.weight": (kinds.get(name, Kind.Q4_1), count) for name, count in rows.items()}
    tensors = {
        name: (kind, matrices.get(name, raw(kind, count, HIDDEN, seed)))
        for seed, (name, (kind, count)) in enumerate(found.items())
    }
    norms = ("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight")
    return tensors | {name: (Kind.F32, np.ones(HIDDEN, np.float32)) for name in norms}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


@settings(max_examples=30)
@given(kind=st.sampled_from(KEPT), rows=st.integers(1, 5), blocks=st.integers(1, 4), seed=st.integers(0, 10**6))
@pytest.mark.parametrize("scales", [None, EXTREMES], ids=["ordinary", "extreme"])
def test_blocks_are_what_the_format_says(
    place: Path, kind: Kind, rows: int, blocks: int, seed: int, scales: list[int] | None
) -> None:
    """Against gguf's own reading of the same bytes."""
    data = raw(kind, rows, blocks * BLOCK, seed, scales)
    (tensor,) = write(place / "one.gguf", {"t": (kind, data)}).tensors
    found = _decode(tensor)
    assert found is not None
    assert np.array_equal(found.dequantise(torch.float32).numpy(), dequantize(data, kind))


@pytest.mark.parametrize("kind", [Kind.Q6_K, Kind.Q4_K, Kind.Q5_0, Kind.F16])
def test_other_types_are_no_blocks(place: Path, kind: Kind) -> None:
    data = np.ones((2, HIDDEN), np.float16) if kind is Kind.F16 else raw(kind, 2, HIDDEN, 0)
    (tensor,) = write(place / "other.gguf", {"t": (kind, data)}).tensors
    assert _decode(tensor) is None


def open_both(path: Path, tensors: dict[str, tuple[Kind, Any]]) -> tuple[dict[str, QuantisedWeight], Any]:
    """What is kept of a file, and the model that transformers makes of it."""
    reader = write(path, tensors)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.bfloat16)
    return read_blocks(reader, model), model


@pytest.mark.parametrize("kind", KEPT)
def test_a_model_keeps_every_matrix_exactly(tmp_path: Path, kind: Kind) -> None:
    """Query and key too, whose rows the format orders otherwise; the embedding as the output layer it is tied to."""
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    found, model = open_both(tmp_path / "m.gguf", llama(dict.fromkeys(names, kind)))
    assert len(found) == 8
    assert "lm_head" in found
    for name, blocks in found.items():
        assert blocks.bits == (8 if kind is Kind.Q8_0 or name == "lm_head" else 4)
        assert torch.equal(blocks.dequantise(torch.bfloat16), model.get_submodule(name).weight)


def test_what_is_no_blocks_stays_dense(tmp_path: Path) -> None:
    found, model = open_both(tmp_path / "m.gguf", llama({"ffn_down": Kind.Q6_K, "attn_q": Kind.Q6_K}))
    assert {name.rpartition(".")[2] for name in found} == {
        *("k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "lm_head")
    }
    assert model.model.layers[0].mlp.down_proj.weight.isfinite().all()


def test_a_matrix_that_is_not_the_models_is_not_kept(tmp_path: Path) -> None:
    """Whatever the reason: another order of rows, another reading of the bytes."""
    reader = write(tmp_path / "m.gguf", llama({}))
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.bfloat16)
    with torch.no_grad():
        up = model.model.layers[0].mlp.up_proj.weight
        up[3, 7] = up[3, 7] * 1.01 + 1e-3
    assert "model.layers.0.mlp.up_proj" not in read_blocks(reader, model)


def test_blocks_outlive_the_disk(tmp_path: Path) -> None:
    found, _ = open_both(tmp_path / "m.gguf", llama({"attn_v": Kind.Q8_0, "ffn_up": Kind.Q4_0}))
    save_blocks(found, tmp_path / "blocks.safetensors")
    again = dict(load_blocks(tmp_path / "blocks.safetensors"))
    assert again.keys() == found.keys()
    for name, blocks in found.items():
        assert again[name].bits == blocks.bits
        for part in ("codes", "scale", "minimum"):
            assert torch.equal(getattr(again[name], part), getattr(blocks, part)), (name, part)


def test_numbers_that_the_file_cannot_hold_are_an_error(tmp_path: Path) -> None:
    blocks = QuantisedWeight(4, torch.zeros(1, BLOCK, dtype=torch.uint8), torch.tensor([[1 / 3]]), torch.zeros(1, 1))
    with pytest.raises(ValueError, match="float16 does not hold every scale"):
        save_blocks({"one": blocks}, tmp_path / "blocks.safetensors")


def test_a_file_cut_short_is_one_sentence(tmp_path: Path) -> None:
    from handler.model.gguf_model import converted
    from handler.seam.errors import BadModel

    path = tmp_path / "m.gguf"
    write(path, llama({}))
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(BadModel, match=r"^m\.gguf could not be converted: .+"):
        converted(path, tmp_path / "cache", lambda *_: None)
    assert not list((tmp_path / "cache" / "gguf").iterdir()), "nothing half made remains"
