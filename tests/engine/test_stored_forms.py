"""The table of stored forms says what the engine does: who multiplies, with how many bytes, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AutoHfQuantizer

from handler.formats.gguf.block_types import BLOCK_TYPES
from handler.formats.gguf.manifest import SourceTensor, read_manifest
from handler.formats.stored_format import has_reader
from handler.linears.block_packing import packed_blocks
from handler.linears.cuda.fp8_linear import Fp8Linear
from handler.linears.cuda.int4_experts import Int4Experts
from handler.linears.cuda.int4_linear import Int4Linear
from handler.linears.ordered_linear import OrderedLinear
from handler.linears.quantised_linear import quantised_linear
from handler.linears.quantised_weight import QuantisedWeight
from handler.model.device import capability_of
from handler.model.gguf_model import converted
from handler.model.loader import load
from handler.model.loading.layer_quantizer import LayersConfig
from handler.model.loading.weight_source import StoredForm
from handler.model.placement import weight_bytes
from handler.seam.config import EngineConfig
from model_memory.forms import Product
from model_memory.gguf_bytes import gguf_bytes
from model_memory.stored_codes import GGUF, METHODS, MODELOPT, Codes, Values, refusal, stored_codes
from model_memory.stored_forms import held_as
from sagemaker_deploy.request.instances import INSTANCES
from sagemaker_deploy.sizing.fit import weights_bytes
from sagemaker_deploy.sizing.gguf_header import KINDS as GGUF_KINDS
from sagemaker_deploy.sizing.gguf_header import shape_from_gguf
from tests.support import formats_table
from tests.support.formats_table import FORMATS, settings_of
from tests.support.pretend_cuda import gpus_of, pretend_cuda

pytestmark = pytest.mark.usefixtures("one_thread")

E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
TABLES = {
    Values.MULTIPLES: torch.cat([E2M1, -E2M1]),
    Values.TABLE: torch.linspace(-1, 1, 16) ** 3,
    Values.FLOAT8: torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().nan_to_num(),
}
N, K = 64, 1536


FIXTURES = sorted(path for path in FORMATS.iterdir() if path.is_dir())
KINDS = sorted(
    {
        *(codes for directory in FIXTURES for codes in stored_codes(settings_of(directory))),
        *GGUF.values(),
        *MODELOPT.values(),
        *(Codes(bits, group) for bits in (2, 3, 4, 8) for group in (0, 32, 128, 256)),
        *(Codes(bits, 128, is_ordered=True) for bits in (4, 8)),
    },
    key=str,
)
CUDA = torch.device("cuda", 0)
A10G = next(each for each in INSTANCES if each.gpu == "A10G")


def weight_of(codes: Codes) -> QuantisedWeight:
    table = TABLES.get(codes.values)
    limit = 120 if codes.values is Values.FLOAT8 else 2**codes.bits
    numbers = torch.randint(limit, (N, K), dtype=torch.uint8)
    scale = torch.rand(N, K // (codes.group or K)) + 0.5
    order = torch.randperm(K) if codes.is_ordered else None
    zero = 0.0 if table is not None else 2.0 ** (codes.bits - 1)
    return QuantisedWeight(codes.bits, numbers, scale, zero=zero, table=table, order=order)


def found_as(layer: Any) -> tuple[float | None, Product]:
    """Bytes of a weight in `layer`, and what multiplies it."""
    if layer is None:
        return None, Product.DENSE
    if isinstance(layer, OrderedLinear):
        return found_as(layer.layer)
    if isinstance(layer, Fp8Linear):
        return layer.codes.element_size(), Product.FP8
    return (layer.packed.nbytes + layer.scales_and_zeros.nbytes) / (N * K), Product.INT4


def error_of(layer: Any, weight: QuantisedWeight) -> float:
    """How far what a layer on CUDA multiplies by is from `weight`, relatively."""
    found = layer(torch.eye(K, dtype=torch.bfloat16, device="cuda")).cpu().float().T
    expected = weight.dequantise(torch.float32)
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("kind", ["T4", "A10G", "L4"])
def test_a_gpu_multiplies_as_the_table_says(kind: str) -> None:
    with pretend_cuda(gpus_of(kind)):
        capability = capability_of(torch.device("cuda"))
        for codes in KINDS:
            weight = weight_of(codes).to("cuda")
            assert found_as(quantised_linear(weight, None, torch.bfloat16)) == held_as(codes, capability), codes
            assert quantised_linear(weight, None, torch.float16) is None
            assert held_as(codes, capability, in_bfloat16=False) == (None, Product.DENSE)


@pytest.mark.parametrize("kind", [kind for kind, codes in GGUF.items() if codes.values is Values.MULTIPLES])
def test_a_gpu_takes_the_tables_of_ggml_as_integers(kind: str) -> None:
    """IQ4's reaches from -127 to 113, so that its integers take eight bits."""
    blocks = BLOCK_TYPES[kind]
    real = getattr(gguf.quants, "IQ4_NL" if kind.startswith("IQ4") else kind).kvalues
    assert blocks.table is not None
    assert blocks.table.tolist() == list(real)
    weight = replace(weight_of(GGUF[kind]), table=blocks.table)
    tensor = SourceTensor(
        file=0, kind=kind, shape=(N, K), offset=0, num_bytes=N * K // blocks.weights * blocks.num_bytes
    )
    with pretend_cuda(gpus_of("A10G")), torch.inference_mode():
        layer = quantised_linear(weight.to("cuda"), None, torch.bfloat16)
        assert found_as(layer) == (gguf_bytes({"a": tensor}, 2, 80) / (N * K), Product.INT4)
        assert error_of(layer, weight) < 0.01


def test_two_nibbles_hold_codes_of_fewer_bits_without_large_numbers_that_cancel() -> None:
    with pretend_cuda(gpus_of("A10G")), torch.inference_mode():
        for codes in KINDS:
            layer = quantised_linear((weight := weight_of(codes)).to("cuda"), None, torch.bfloat16)
            assert layer is None or error_of(layer, weight) < 0.01, codes


@pytest.mark.parametrize("name", ["gptq-v2-act-order", "awq-gemm", "compressed_tensors-w8a16", "fp8-fbgemm"])
def test_a_checkpoint_runs_on_a_gpu_as_it_is_stored(name: str, tmp_path: Path) -> None:
    config = EngineConfig(cache_dir=str(tmp_path))
    expected = load_file(FORMATS / name / "expected.safetensors")
    with pretend_cuda(gpus_of("H200")), torch.inference_mode():
        loaded = load(config, FORMATS / name, lambda *_: None)
        layers = [each for each in loaded.model.modules() if isinstance(each, Int4Linear | Fp8Linear)]
        assert len(layers) >= 7
        logits = loaded.model(input_ids=expected["input_ids"][None].to("cuda"), use_cache=False).logits[0].cpu().float()
    close = 0.1 if name.startswith("fp8") else 0.02  # the fp8 product rounds activations too
    assert float((logits - expected["logits"]).norm() / expected["logits"].norm()) < close


def loaded_bytes(model: Any) -> int:
    """Bytes of the model's weights; those of one expert are a part of its matrices."""
    parts = {id(one) for each in model.modules() if isinstance(each, Int4Experts) for one in each.layers}
    total = sum(weight.nbytes for weight in model.parameters())
    for module in model.modules():
        if isinstance(module, Int4Experts):
            total += module._packed.nbytes + module._scales_and_zeros.nbytes
        elif isinstance(module, Int4Linear) and id(module) not in parts:
            total += module.packed.nbytes + module.scales_and_zeros.nbytes
            total += 0 if module.bias is None else module.bias.nbytes
    return total


@pytest.mark.parametrize("name", [directory.name for directory in FIXTURES if (directory / "model.gguf").exists()])
def test_plan_weighs_a_gguf_file_as_a_gpu_loads_it(name: str, tmp_path: Path) -> None:
    path = FORMATS / name / "model.gguf"
    planned = {quantize: weights_bytes(shape_from_gguf(path), quantize, A10G) for quantize in ("auto", "int4")}
    with pretend_cuda(gpus_of("A10G")), torch.inference_mode():
        directory = converted(path, tmp_path, lambda *_: None)
        found = loaded_bytes(load(EngineConfig(cache_dir=str(tmp_path)), directory, lambda *_: None).model)
    assert planned == {"auto": found, "int4": found}
    assert gguf_bytes(read_manifest(directory).tensors, 2, A10G.capability) == found


def test_plan_knows_ggmls_types() -> None:
    real = {kind.value: kind.name for kind in gguf.GGMLQuantizationType}
    assert {name for name in real.values() if not name.startswith(("I8", "I16", "I32", "I64"))} == {
        *GGUF_KINDS.values()
    }
    assert {number: real[number] for number in GGUF_KINDS} == GGUF_KINDS


@pytest.mark.parametrize("codes", KINDS, ids=str)
def test_our_kernels_take_what_the_table_says_with_at_most_its_bytes(codes: Codes) -> None:
    most, product = held_as(codes, None)
    weight = replace(weight_of(codes), order=None)
    for tiles in (False, True):  # without and with a matrix unit
        packed = packed_blocks(weight, tiles)
        assert (packed is not None) is (product is Product.KERNELS)
        if packed is not None and most is not None:
            assert 0.6 * most < (packed.codes.nbytes + packed.scales.nbytes) / (N * K) <= most
    assert held_as(codes, None, in_bfloat16=False) == (None, Product.DENSE)


def test_what_the_table_lets_in_has_a_reader_and_nothing_else_has() -> None:
    for method in METHODS - {"gguf"}:  # found by its files, not by config.json
        assert has_reader(method), method
    for method in AUTO_QUANTIZATION_CONFIG_MAPPING:
        is_read = method in METHODS or method.startswith("bitsandbytes")
        assert bool(refusal({"quant_method": method})) is not is_read, method


@pytest.mark.parametrize("directory", FIXTURES, ids=lambda directory: directory.name)
def test_every_fixture_is_let_in(directory: Path) -> None:
    assert refusal(settings_of(directory)) == ""


def test_the_page_says_what_the_table_says() -> None:
    """`python -m tests.support.formats_table` writes it anew."""
    assert formats_table.PATH.read_text() == formats_table.render()


def torchao(kind: str, **values: Any) -> dict[str, Any]:
    return {"quant_method": "torchao", "quant_type": {"default": {"_type": kind, "_data": values}}}


def rotated(*locations: str, **values: Any) -> dict[str, Any]:
    """A compressed-tensors checkpoint with rotations at these places."""
    apply = [{"targets": ["Linear"], "location": each} for each in locations]
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}
    transform = {"config_groups": {"R1": {"type": "hadamard", "apply": apply, **values}}}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return {"quant_method": "compressed-tensors", "config_groups": groups, "transform_config": transform}


@pytest.mark.parametrize(
    ("values", "codes"),
    [
        (rotated("weight_output", "weight_input"), [Codes(4, 128)]),
        (torchao("Int4WeightOnlyConfig", group_size=64, int4_packing_format="plain"), [Codes(4, 64)]),
        (
            torchao("Float8DynamicActivationInt4WeightConfig", int4_packing_format={"_data": "PLAIN"}),
            [Codes(4, 128)],
        ),
        (
            torchao(
                "FqnToConfig",
                fqn_to_config={"a": {"_type": "Int4WeightOnlyConfig"}, "b": {"_type": "Int8WeightOnlyConfig"}},
            ),
            [Codes(4, 128), Codes(8)],
        ),
    ],
)
def test_what_needs_nothing_at_run_time_is_let_in(values: dict[str, Any], codes: list[Codes]) -> None:
    assert [*stored_codes(values)] == codes


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"quant_method": "gptq", "checkpoint_format": "bitblas"}, "stored as gptq in the checkpoint_format bitblas"),
        ({"quant_method": "gptq", "rotation": "hadamard"}, "stored as gptq has rotated weights"),
        ({"quant_method": "awq", "bits": 8}, "stored as awq in 8 bits"),
        ({"quant_method": "awq", "version": "marlin"}, "stored as awq in the version marlin"),
        ({"quant_method": "auto-round", "packing_format": "auto_round:nvfp4"}, "packing_format auto_round:nvfp4"),
        ({"quant_method": "intel/auto-round", "backend": "auto_round:hpu"}, "packing_format auto_round:hpu of int"),
        ({"quant_method": "intel/auto-round", "backend": "auto_round:awq:exllamav2", "bits": 8}, "of 8 bits"),
        ({"quant_method": "auto-round", "data_type": "mx_fp4"}, "of mx_fp4"),
        ({"quant_method": "auto-round", "act_bits": 8}, "with activations in 8 bits"),
        ({"quant_method": "auto-round", "spinquant_config": {"a": 1}}, "stored as auto-round has rotated weights"),
        ({"quant_method": "auto-round", "rotation_config": {"a": 1}}, "stored as auto-round has rotated weights"),
        ({"quant_method": "compressed-tensors", "format": "marlin-24"}, "in the format marlin-24"),
        ({"config_groups": {}, "quantization_config": {"format": "marlin-24"}}, "in the format marlin-24"),
        (
            {"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24-bitmask"}},
            "with sparse weights (sparse-24-bitmask)",
        ),
        (rotated("weight_input", "input"), "needs activations rotated (transform_config)"),
        (rotated("q_attn", "k_cache"), "needs activations rotated"),
        (rotated("weight_output", requires_grad=True), "needs activations rotated"),
        (rotated("rows"), "needs activations rotated"),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "with the quant_algo W4A8_AWQ"),
        (
            torchao("Int4WeightOnlyConfig", int4_packing_format="tile_packed_to_4d"),
            "int4_packing_format tile_packed_to_4d",
        ),
        (
            torchao("Int4WeightOnlyConfig", int4_packing_format={"_type": "Int4PackingFormat", "_data": "PLAIN_INT32"}),
            "torchao's int4_packing_format plain_int32 has the layout of one kind of device",
        ),
        (torchao("Int4WeightOnlyConfig", int4_packing_format="marlin_sparse"), "int4_packing_format marlin_sparse"),
        (torchao("Float8DynamicActivationInt4WeightConfig"), "int4_packing_format preshuffled"),
        (
            torchao("Int8DynamicActivationIntxWeightConfig", intx_packing_format={"_data": "OPAQUE_TORCHAO_AUTO"}),
            "intx_packing_format opaque_torchao_auto",
        ),
        (
            torchao("Float8DynamicActivationFloat8WeightConfig", packing_format="sparse_2d_data_2d_metadata"),
            "packing_format sparse_2d_data_2d_metadata",
        ),
        (torchao("MXDynamicActivationMXWeightConfig"), "in torchao's MXDynamicActivationMXWeightConfig is not read"),
        (torchao("NVFP4WeightOnlyConfig"), "in torchao's NVFP4WeightOnlyConfig is not read"),
        (
            torchao("FqnToConfig", fqn_to_config={"lm_head": None, "_default": {"_type": "NVFP4WeightOnlyConfig"}}),
            "in torchao's NVFP4WeightOnlyConfig is not read",
        ),
        (
            torchao("AWQConfig", base_config={"_type": "Int4WeightOnlyConfig", "_data": {"int4_packing_format": "x"}}),
            "in torchao's int4_packing_format x ",
        ),
        *(({"quant_method": method}, f"stored as {method} ") for method in ("exl2", "quip", "spqr", "eetq", "bitnet")),
    ],
)
def test_a_refusal_names_the_form_and_the_way_out(values: dict[str, Any], said: str) -> None:
    assert said in refusal(values)
    assert refusal(values).endswith("; take the model in 16 bits, with HF_MODEL_QUANTIZE=int4 if it must be small")
    assert stored_codes(values) == ()


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("value", [None, "x", -1, 1.5, True, [], [1], {}, {"a": 1}, {"a": {"weights": []}}])
def test_no_value_of_a_config_breaks_the_table(method: str, value: object) -> None:
    names = ("bits", "group_size", "quant_type", "quant_config", "config_groups", "weight_block_size", "quant_algo")
    names += ("types", "desc_act", "format", "sparsity_config", "quantized_layers", "version", "packing_format")
    for name in names:
        stored_codes({"quant_method": method, name: value})


@pytest.mark.parametrize("name", ["gptq", "compressed_tensors-w4a16", "awq-gemm-g32"])
def test_a_stored_model_is_divided_among_gpus_by_what_its_weights_take(name: str) -> None:
    """By dense sizes no GPUs that the placement has found enough would hold it; transformers asks the quantiser."""
    values = settings_of(FORMATS / name)
    with pretend_cuda(gpus_of("A10G")):
        size = weight_bytes(StoredForm(str(values["quant_method"]), values), FORMATS / name, torch.bfloat16, CUDA)
    config = LayersConfig(None, name, torch.bfloat16, stored_bytes=size)
    quantizer = AutoHfQuantizer.from_config(config, pre_quantized=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(FORMATS / name), dtype=torch.bfloat16)
    quantizer._process_model_before_weight_loading(model, device_map={})
    found = {key: quantizer.param_element_size(model, key, weight) for key, weight in model.named_parameters()}
    assert {key for key, each in found.items() if each == size} == {key for key in found if key.endswith("proj.weight")}
    assert set(found.values()) == {size, 2}
