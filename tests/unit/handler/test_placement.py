"""Which GPUs an engine takes, and where keys lie when layers are on several devices. No GPU is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from container.run_dir import RunDir
from container.settings import Settings
from container.supervisor.engine_process import EngineProcess, Replica, visible_gpus
from handler.model.loader import _check_spread, place
from handler.model.placement import Devices, Needs, choose_devices, memory_limits, needs_of, with_free_memory
from handler.runners.paged.cache import PagedCache
from handler.runners.paged.input import PagedInput
from handler.runners.slots.cache import SlotCache
from handler.seam.config import EngineConfig, Quantize
from handler.seam.errors import BadConfiguration
from model_memory.forms import auto_forms
from model_memory.sharing import Weights
from model_memory.weight_counts import WeightCounts
from sagemaker_deploy.request.instances import INSTANCES
from sagemaker_deploy.sizing.fit import auto_share, default_load
from sagemaker_deploy.sizing.model_source import load_shape
from tests.support.pretend_cuda import GPU_KINDS, gpus_of, pretend_cuda

CONFIGS = Path(__file__).resolve().parents[2] / "data" / "configs"
GIB = 2**30
CUDA = torch.device("cuda")


# 2 x 16 x 4 embeddings, and for each layer 4 x 16 x 16 attention, 3 x 16 x 24 MLP and 32 norms.
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 4,
    "tie_word_embeddings": False,
}


def of(gib: int) -> Needs:
    """Weights of so many GiB in a form that is settled."""
    return Needs((Weights("none", gib * GIB),))


@pytest.mark.parametrize(
    ("config", "gib", "free", "own", "num_engines"),
    [
        ({}, 10, [24], [0], 1),
        ({}, 10, [24, 24, 24, 24], [0], 4),
        ({"index": 2, "num_engines": 4, "devices_per_engine": 1}, 10, [24], [0], 1),
        ({"index": 2, "num_engines": 4}, 10, [24, 24, 24, 24], [2], 4),
        ({"num_devices": 2}, 10, [24, 24, 24, 24], [0], 2),
        ({}, 30, [24, 24, 24, 24], [0, 1], 2),
        ({"index": 1, "num_engines": 2, "devices_per_engine": 2}, 30, [24, 24], [0, 1], 1),
        ({"index": 1, "num_engines": 2}, 30, [24, 24, 24, 24], [2, 3], 2),
        ({}, 60, [24, 24, 24, 24], [0, 1, 2, 3], 1),
        ({}, 18, [24, 20], [0, 1], 1),
        ({}, 900, [24, 24], [0, 1], 1),
        ({"num_engines": 2}, 30, [24, 24, 24, 24], [0, 1], 2),
        ({"num_engines": 4}, 30, [24, 24, 24, 24], [0], 4),
        ({"num_devices": 1}, 30, [24, 24], [0], 1),
    ],
)
def test_the_fewest_gpus_that_hold_the_model(
    config: dict[str, Any], gib: int, free: list[int], own: list[int], num_engines: int
) -> None:
    found = choose_devices(EngineConfig(**config), CUDA, of(gib), tuple(each * GIB for each in free))
    assert [device.index for device in found.own] == own
    assert found.num_engines == num_engines


@pytest.mark.parametrize("visible", ["", "7,6,5,4,3,2,1,0", "GPU-aa, GPU-bb,GPU-cc,GPU-dd,GPU-ee,GPU-ff,GPU-gg,GPU-hh"])
def test_engines_never_share_a_gpu(visible: str) -> None:
    every = [each.strip() for each in visible.split(",")] if visible else [str(i) for i in range(8)]
    for span, number in ((1, 8), (2, 4), (4, 2)):
        shown = [visible_gpus(Replica(i, number, span), {"CUDA_VISIBLE_DEVICES": visible}) for i in range(number)]
        assert [name for each in shown for name in each["CUDA_VISIBLE_DEVICES"].split(",")] == every
        own = choose_devices(EngineConfig(index=1, num_engines=number, devices_per_engine=span), CUDA, of(0), ()).own
        assert [device.index for device in own] == list(range(span))


@pytest.mark.parametrize("replica", [Replica(0), Replica(0, 1, 4), Replica(2, 4, 0)])
def test_an_engine_that_is_alone_or_decides_itself_sees_every_gpu(replica: Replica) -> None:
    assert visible_gpus(replica, {"CUDA_VISIBLE_DEVICES": "2,3"}) == {}


@pytest.mark.parametrize(
    ("config", "device", "sentence"),
    [
        ({"num_devices": 4}, CUDA, "NUM_SHARD must be at most 2, the GPUs that are visible. Given: 4"),
        ({"num_engines": 3}, CUDA, "ENGINE_REPLICAS must be at most 2: an engine takes 1 of 2 GPUs. Given: 3"),
        ({"num_engines": 2}, torch.device("cuda:1"), "ENGINE_REPLICAS must be 1 with DEVICE=cuda:1. Given: 2"),
    ],
)
def test_more_than_there_can_be_is_refused(config: dict[str, Any], device: torch.device, sentence: str) -> None:
    with pytest.raises(BadConfiguration) as error:
        choose_devices(EngineConfig(**config), device, of(1), (24 * GIB, 24 * GIB))
    assert str(error.value) == sentence


def test_a_named_gpu_and_the_cpu_are_taken_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    assert choose_devices(EngineConfig(), torch.device("cuda:1"), of(900), (GIB, GIB)).own == (torch.device("cuda:1"),)
    found = choose_devices(EngineConfig(num_devices=4), torch.device("cpu"), of(0), ())
    assert (found.own, found.num_engines) == ((torch.device("cpu"),), 1)
    assert "NUM_SHARD=4 is ignored" in caplog.text


def test_accelerate_may_use_this_engines_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: ((30 + 10 * device.index) * GIB, 80 * GIB))
    config = EngineConfig(index=1, num_engines=2, devices_per_engine=2)
    assert memory_limits(choose_devices(config, CUDA, of(0), (80 * GIB,) * 2)) == {0: 24 * GIB, 1: 32 * GIB}


@pytest.mark.parametrize(
    ("values", "quantize", "dtype", "expected"),
    [
        ({"dtype": "float32"}, Quantize.NONE, torch.bfloat16, [500]),
        ({"dtype": "bfloat16"}, Quantize.AUTO, torch.bfloat16, [1000, 312, 281]),
        ({"dtype": "bfloat16"}, Quantize.AUTO, torch.float16, [1000, 281]),
        ({"dtype": "bfloat16"}, Quantize.EETQ, torch.bfloat16, [625]),
        ({"dtype": "bfloat16"}, Quantize.EETQ, torch.float16, [500]),
        ({"dtype": "bfloat16"}, Quantize.NF4, torch.bfloat16, [281]),
        ({"dtype": "float16"}, Quantize.NONE, torch.float32, [2000]),
        ({"quantization_config": {"quant_method": "awq"}}, Quantize.AUTO, torch.float16, [1000]),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, Quantize.NONE, None, [1000]),
        ({**LLAMA, "dtype": "bfloat16", "vocab_size": float("inf")}, Quantize.NONE, torch.bfloat16, [1000]),
        ({**LLAMA, "quantization_config": {"quant_method": "mxfp4"}}, Quantize.AUTO, torch.bfloat16, [2 * 2336]),
        ({**LLAMA, "quantization_config": {"quant_method": "fp8"}}, Quantize.NONE, torch.float32, [4 * 2336]),
    ],
)
def test_the_size_of_weights_follows_what_they_are_loaded_as(
    tmp_path: Path, values: dict[str, Any], quantize: Quantize, dtype: torch.dtype | None, expected: list[int]
) -> None:
    for part in ("a", "b"):
        (tmp_path / f"{part}.safetensors").write_bytes(b"\0" * 500)
    (tmp_path / "config.json").write_text(json.dumps(values))
    needs = needs_of(tmp_path, EngineConfig(quantize=quantize), dtype or torch.bfloat16, 86)
    assert [weights.num_bytes for weights in needs.forms] == expected


def test_the_form_that_modelopts_own_file_names_is_what_weights_take(tmp_path: Path) -> None:
    config = json.loads((CONFIGS / "llama-3.1-8b.json").read_text())
    own = {"quantization": {"quant_algo": "FP8"}}
    form = {"quantization_config": {"quant_method": "modelopt", **own}}
    (tmp_path / "config.json").write_text(json.dumps(config | form))
    expected = needs_of(tmp_path, EngineConfig(), torch.bfloat16, 89)
    assert expected.forms[0].form == "modelopt"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert needs_of(tmp_path, EngineConfig(), torch.bfloat16, 89) != expected
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(own))
    assert needs_of(tmp_path, EngineConfig(), torch.bfloat16, 89) == expected


def auto_needs(billions: float, embeddings: float, experts: float, capability: int) -> Needs:
    """A dense checkpoint of so many billions of weights in linear layers, embeddings and experts, under `auto`."""
    counts = WeightCounts(int(billions * 1e9), int(experts * 1e9), int(embeddings * 1e9))
    forms = auto_forms(capability)
    weights = (Weights(it.name, it.num_bytes(counts, 2), it.moved_bytes(counts, 2)) for it in forms)
    return Needs(tuple(weights), GIB)


@pytest.mark.parametrize(
    ("counts", "kind", "count", "config", "expected"),
    [
        ((7, 1, 0), "A10G", 1, {}, ("none", 1, 1)),
        ((7, 1, 0), "A10G", 4, {}, ("none", 1, 4)),
        ((7, 1, 0), "T4", 4, {}, ("bitsandbytes-nf4", 1, 4)),
        ((13, 1.5, 0), "T4", 4, {}, ("bitsandbytes-nf4", 1, 4)),
        ((13, 1.5, 0), "A10G", 1, {}, ("int4", 1, 1)),
        ((13, 1.5, 0), "A10G", 4, {}, ("int4", 1, 4)),
        ((29, 1, 0), "A10G", 1, {}, ("bitsandbytes-nf4", 1, 1)),
        ((31, 1.5, 0), "A10G", 4, {}, ("int4", 2, 2)),
        ((31, 1.5, 0), "A10G", 8, {}, ("int4", 2, 4)),
        ((31, 1.5, 0), "A10G", 2, {}, ("int4", 2, 1)),
        ((31, 1.5, 0), "H100", 8, {}, ("none", 1, 8)),
        ((45, 2, 0), "H100", 8, {}, ("int4", 1, 8)),
        ((68, 2, 0), "H100", 8, {}, ("int4", 1, 8)),
        ((68, 2, 0), "H200", 8, {}, ("int4", 1, 8)),
        ((1, 0.6, 28.5), "A10G", 4, {}, ("int4", 2, 2)),
        ((31, 1.5, 0), "A10G", 4, {"has_given_engines": True}, ("none", 4, 1)),
        ((31, 1.5, 0), "A10G", 4, {"num_engines": 2}, ("int4", 2, 2)),
        ((13, 1.5, 0), "A10G", 4, {"num_engines": 2}, ("none", 2, 2)),
        ((13, 1.5, 0), "A10G", 4, {"num_devices": 2}, ("int4", 1, 2)),
        ((13, 1.5, 0), "A10G", 4, {"num_devices": 1}, ("int4", 1, 1)),
        ((400, 4, 0), "A10G", 4, {}, ("bitsandbytes-nf4", 4, 1)),
    ],
)
def test_auto_weighs_several_quantised_engines_against_one_that_is_split(
    counts: tuple[float, float, float],
    kind: str,
    count: int,
    config: dict[str, Any],
    expected: tuple[str, int, int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (major, minor), memory = GPU_KINDS[kind]
    needs = auto_needs(*counts, major * 10 + minor)
    with caplog.at_level("INFO", "handler"):
        found = choose_devices(EngineConfig(**config), CUDA, needs, (memory,) * count)
    assert (found.quantize, len(found.own), found.num_engines) == expected
    (line,) = [record.getMessage() for record in caplog.records]
    assert "HF_MODEL_QUANTIZE=auto weighed none (" in line
    assert line.endswith(f"taken: {expected[0]}")


@given(
    linears=st.floats(0.1, 500),
    experts=st.sampled_from([0, 30]),
    kind=st.sampled_from(sorted(GPU_KINDS)),
    count=st.integers(1, 8),
)
def test_every_engine_takes_the_form_of_the_first(linears: float, experts: float, kind: str, count: int) -> None:
    """Each decides anew, by its own GPUs alone; so does the first, when it starts again."""
    (major, minor), memory = GPU_KINDS[kind]
    needs = auto_needs(linears, 1, experts, major * 10 + minor)
    first = choose_devices(EngineConfig(), CUDA, needs, (memory,) * count)
    span = len(first.own)
    for index in range(first.num_engines if first.num_engines > 1 else 0):
        config = EngineConfig(index=index, num_engines=first.num_engines, devices_per_engine=span)
        assert choose_devices(config, CUDA, needs, (memory,) * span).quantize is first.quantize


@pytest.mark.parametrize(("setting", "is_given"), [({}, False), ({"ENGINE_REPLICAS": "1"}, True)])
def test_pid_1_tells_the_engine_whether_the_number_is_a_setting(
    setting: dict[str, str], is_given: bool, tmp_path: Path
) -> None:
    """One engine that is asked for takes all GPUs; one that is the default may call for others."""
    engine = EngineProcess(Settings.from_environ(setting), RunDir(tmp_path), Replica(0), {})
    assert engine._config(0).has_given_engines is is_given


def test_a_setting_is_never_weighed(caplog: pytest.LogCaptureFixture) -> None:
    needs = Needs(auto_needs(31, 1.5, 0, 86).forms[:1], GIB)
    with caplog.at_level("INFO", "handler"):
        found = choose_devices(EngineConfig(quantize=Quantize.NONE), CUDA, needs, (GPU_KINDS["A10G"][1],) * 4)
    assert (len(found.own), found.num_engines, caplog.text) == (4, 1, "")


@pytest.mark.parametrize(("count", "expected"), [(4, ("int4", 2, 2)), (1, ("bitsandbytes-nf4", 1, 1))])
def test_a_model_of_32_billion_weights_on_pretended_gpus(
    count: int, expected: tuple[str, int, int], tmp_path: Path
) -> None:
    """From config.json and a file of the right size, which is a hole; as the deploy helper's plan predicts."""
    (tmp_path / "config.json").write_text((CONFIGS / "qwen2.5-32b.json").read_text())
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(65_527_752_704)
    with pretend_cuda(gpus_of("A10G", count)) as gpus:
        found = place(EngineConfig(model=str(tmp_path)), tmp_path)
        assert gpus.contexts <= {0, 1}
    assert (found.quantize, len(found.own), found.num_engines) == expected
    instance = next(it for it in INSTANCES if it.gpu == "A10G" and it.num_gpus == count)
    shape = load_shape(str(tmp_path))
    told = auto_share(shape, default_load(shape), instance)
    assert (told.weights.form, told.span, told.engines) == expected


def test_memory_that_another_program_takes_is_no_room(caplog: pytest.LogCaptureFixture) -> None:
    needs = auto_needs(7, 1, 0, 86)
    with pretend_cuda(gpus_of("A10G", 1)) as gpus:
        chosen = choose_devices(EngineConfig(), CUDA, needs, (gpus.all[0].total,))
        assert with_free_memory(chosen, needs).quantize is Quantize.NONE
        gpus.all[0].take(8 * GIB)
        chosen = with_free_memory(chosen, needs)
        assert chosen.quantize is Quantize.INT4_BLOCKS
        assert with_free_memory(chosen, needs) is chosen
        gpus.all[0].take(8 * GIB)
        assert with_free_memory(chosen, needs).quantize is Quantize.NF4
    assert "MiB are free on this engine's GPUs" in caplog.text


HEADS = (1, 2, 3, 8)
ELSEWHERE = torch.device("meta")


def test_keys_lie_where_their_layer_is() -> None:
    """`meta` stands for a second GPU: a device on which nothing can be computed, so that a mistake shows."""
    here = torch.device("cpu")
    paged = PagedCache(4, 16, torch.float32, here)
    slots = SlotCache(2, 64, torch.float32, here)
    index = torch.arange(3)
    for layer, device in enumerate((here, ELSEWHERE, here)):
        heads = torch.ones(HEADS, device=device)[0].transpose(0, 1)
        paged.write(layer, index.to(device), heads, heads)
        slots.write(layer, index, heads, heads)
        written = [*paged.layer(layer), *slots.layer(layer, heads, heads)]
        assert {each.device.type for each in written} == {device.type}
        assert device is ELSEWHERE or all(float(each.sum()) == 3 * 2 * 8 for each in written)


def test_a_step_is_moved_to_the_device_of_a_layer() -> None:
    ids, row = torch.zeros(1, 3, dtype=torch.int64), torch.zeros(3, dtype=torch.int32)
    here = PagedInput(ids, ids, row.long(), row, row, row, row[None], 1, 1, None)
    moved = here.on(ELSEWHERE)
    names = ("slot_mapping", "cu_seq_q", "cu_seq_k", "seqused_k", "block_table")
    assert {getattr(moved, name).device for name in names} == {ELSEWHERE}
    assert moved.input_ids is ids


def test_a_model_whose_parts_did_not_all_find_room_on_the_gpus_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    """Transformers puts them on the CPU or the disk without a word."""
    gpus = Devices((torch.device("cuda", 0), torch.device("cuda", 1)))
    for places in ({"": "cpu"}, {"model": "cpu", "lm_head": "disk"}):
        model = AutoModelForCausalLM.from_pretrained(tiny_llama, device_map=places, offload_folder=tmp_path)
        with pytest.raises(BadConfiguration, match="2 GPUs have too little memory"):
            _check_spread(model, gpus)
    model.hf_device_map = {"model": 0, "lm_head": 1}
    _check_spread(model, gpus)
