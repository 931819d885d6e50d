"""The models that `bench/models.py` makes are whole checkpoints of transformers, the same for one seed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bench.models import SHAPES, Shape, make, num_weights
from handler.model.location import check_files

TINY = Shape(layers=2, hidden=64, intermediate=96, heads=4, kv_heads=2, is_tied=False, vocabulary=49_152)


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_every_weight_of_the_model_is_there_and_no_other(tmp_path: Path, kept: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    make(TINY, tmp_path, kept)
    check_files(tmp_path, trust_remote_code=False)
    with torch.device("meta"):
        expected = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path)).state_dict()
    found = weights(tmp_path)
    assert {name: tensor.shape for name, tensor in found.items()} == {n: t.shape for n, t in expected.items()}
    assert num_weights(TINY) == sum(tensor.numel() for tensor in found.values())
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == TINY.vocabulary


def test_a_seed_gives_the_same_weights(tmp_path: Path, kept: Path) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        make(TINY, tmp_path / name, kept, seed)
    one, same, other = (weights(tmp_path / name) for name in ("one", "same", "other"))
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


@pytest.mark.parametrize(("name", "billions"), [("1b", 1.07), ("3b", 2.97), ("8b", 7.38)])
def test_sizes_are_those_of_their_names(name: str, billions: float) -> None:
    assert num_weights(SHAPES[name]) / 1e9 == pytest.approx(billions, rel=0.01)
