"""What `plan` weighs, against the models that transformers builds, and what it recommends.

Configurations are recorded in tests/data/configs. docs/deploy.md shows the same table.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from model_memory.forms import Product, auto_forms, quantized
from model_memory.stored_forms import stored
from model_memory.weight_counts import TIED_BY_DEFAULT, WeightCounts, count_weights, text_values
from sagemaker_deploy.cli.main import main
from sagemaker_deploy.plan import make_plan
from sagemaker_deploy.request.instances import INSTANCES, find_instance
from sagemaker_deploy.sizing.fit import Load, auto_share, check_fit, default_load, fit_warnings, weights_bytes
from sagemaker_deploy.sizing.model_shape import ModelShape, shape_from_config
from sagemaker_deploy.sizing.recommendation import form_of, recommend
from tests.deploy.conftest import REGION, make_spec

ROOT = Path(__file__).resolve().parents[2]
A10G = 86
# Model, --quantize, recommended instance, copies, GPUs of each.
TABLE = [
    ("llama-3.1-8b", "auto", "ml.g7.2xlarge", "none", 1, 1),
    ("llama-3.1-8b", "int4", "ml.g6.xlarge", "int4", 1, 1),
    ("llama-3.1-8b", "int8", "ml.g6.xlarge", "int8", 1, 1),
    ("llama-3.1-8b", "bitsandbytes-nf4", "ml.g6.xlarge", "bitsandbytes-nf4", 1, 1),
    ("llama-3.1-8b-fp8", "auto", "ml.g7.2xlarge", "auto", 1, 1),
    ("llama-3.1-8b-awq", "auto", "ml.g6.xlarge", "auto", 1, 1),
    ("llama-3.1-8b-gptq", "auto", "ml.g6.xlarge", "auto", 1, 1),
    ("gemma-2-9b", "auto", "ml.g6e.xlarge", "none", 1, 1),
    ("gemma-2-9b", "int4", "ml.g6.xlarge", "int4", 1, 1),
    ("gpt-oss-20b", "auto", "ml.g7.2xlarge", "auto", 1, 1),
    ("qwen3-30b-a3b", "auto", "ml.g7e.2xlarge", "none", 1, 1),
    ("qwen3-30b-a3b", "int4", "ml.g7.2xlarge", "int4", 1, 1),
    ("qwen3-30b-a3b", "bitsandbytes-nf4", "ml.g7e.2xlarge", "bitsandbytes-nf4", 1, 1),
    ("qwen2.5-32b", "auto", "ml.g7e.2xlarge", "none", 1, 1),
    ("mixtral-8x7b", "auto", "ml.g6e.xlarge", "int4", 1, 1),
    ("mixtral-8x7b", "bitsandbytes-nf4", "ml.g7e.12xlarge", "bitsandbytes-nf4", 1, 2),
    ("llama-3.3-70b", "auto", "ml.g7e.2xlarge", "int4", 1, 1),
    ("llama-3.3-70b", "none", "ml.g7e.12xlarge", "none", 1, 2),
]


def config_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "tests" / "data" / "configs" / f"{name}.json").read_text())
    return found


def shape_of(name: str) -> ModelShape:
    return shape_from_config(config_of(name))


def row(name: str, quantize: str) -> tuple[str, ...]:
    """A row of docs/deploy.md but for the bytes on the meta device."""
    shape = shape_of(name)
    found = recommend(shape, default_load(shape), quantize)
    assert found is not None
    best = found.best
    size = weights_bytes(shape, best.quantize, best.instance) / 1e9
    where = "on 1 GPU" if best.span == 1 else f"split over {best.span} GPUs"
    return (name, f"`{quantize}`", f"{size:.1f}", best.instance.name, f"{form_of(best)}, {where}")


@pytest.mark.parametrize(("name", "quantize", "instance", "form", "copies", "span"), TABLE)
def test_the_instance_that_is_recommended(
    name: str, quantize: str, instance: str, form: str, copies: int, span: int
) -> None:
    shape = shape_of(name)
    found = recommend(shape, default_load(shape), quantize)
    assert found is not None
    best = found.best
    assert (best.instance.name, best.quantize, best.copies, best.span) == (instance, form, copies, span)


@functools.cache
def built(name: str) -> Any:
    """The model that transformers builds for a recorded configuration, on the meta device."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    values = {key: value for key, value in config_of(name).items() if key != "quantization_config"}
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**values))


def bytes_on_meta(name: str, quantize: str) -> int:
    """What loading takes: each parameter in 16 bits but those that the quantiser replaces by its own rule."""
    from torch import nn
    from transformers.quantizers.base import get_keys_to_not_convert

    model = built(name)
    if quantize in ("int4", "int8"):
        return bytes_in_blocks(model, 4 if quantize == "int4" else 8)
    total = 2 * sum(parameter.numel() for parameter in model.parameters())
    if name == "gpt-oss-20b":  # e2m1 takes eight bits of the int4 product, in groups of 32
        return total - sum(int(each.numel() * (2 - 1.25)) for each in model.parameters() if each.dim() == 3)
    if name.endswith(("-awq", "-gptq")):
        return total - sum(int(linear.weight.numel() * (2 - int4_bytes())) for linear in linears(model))
    if quantize == "bitsandbytes-nf4":
        kept = set(get_keys_to_not_convert(model))
        for path, module in model.named_modules():
            if isinstance(module, nn.Linear) and not any(path == each or each in path.split(".") for each in kept):
                total -= int(module.weight.numel() * (2 - nf4_bytes()))
    return total


def bytes_in_blocks(model: Any, bits: int) -> int:
    """What the engine's own quantiser makes of a model, as transformers asks it before it reads the weights."""
    import torch
    from transformers.quantizers.auto import AutoHfQuantizer

    from handler.model.loading.layer_quantizer import LayersConfig

    quantizer = AutoHfQuantizer.from_config(LayersConfig(bits, None, torch.bfloat16), pre_quantized=False)
    quantizer._process_model_before_weight_loading(model, device_map={"": "cuda"})
    sizes = (
        parameter.numel() * quantizer.param_element_size(model, name, torch.empty(0, dtype=torch.bfloat16))
        for name, parameter in model.named_parameters()
    )
    return int(sum(sizes))


def linears(model: Any) -> list[Any]:
    """The layers that published AWQ and GPTQ checkpoints quantise: all but the output."""
    from torch import nn

    return [each for name, each in model.named_modules() if isinstance(each, nn.Linear) and name != "lm_head"]


@functools.cache
def int4_bytes() -> float:
    """Bytes for each weight of a layer that torch's int4 product multiplies, with groups of 128."""
    import torch

    from handler.linears.cuda.int4_linear import Int4Linear
    from handler.linears.quantised_weight import QuantisedWeight
    from tests.support.pretend_cuda import gpus_of, pretend_cuda

    with pretend_cuda(gpus_of("A10G")):
        codes, scale = torch.zeros(64, 256, dtype=torch.uint8), torch.ones(64, 2)
        layer = Int4Linear.of_quantised(QuantisedWeight(4, codes, scale).to("cuda"), None)
        return (layer.packed.nbytes + layer.scales_and_zeros.nbytes) / codes.numel()


@functools.cache
def nf4_bytes() -> float:
    """Bytes for each weight of a layer that bitsandbytes has quantised."""
    import torch
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(torch.randn(256, 256), quant_type="nf4", compress_statistics=False)
    return (packed.numel() * packed.itemsize + state.absmax.numel() * state.absmax.itemsize) / 256**2


@pytest.mark.needs("torch")
@pytest.mark.parametrize(("name", "quantize"), [(name, quantize) for name, quantize, *_ in TABLE])
def test_the_plan_counts_what_loading_takes(name: str, quantize: str) -> None:
    shape = shape_of(name)
    form = next((form for each, given, _, form, *_ in TABLE if (each, given) == (name, quantize)), "")
    page = (ROOT / "docs" / "deploy.md").read_text()
    found, taken = weights_bytes(shape, form, INSTANCES[0]), bytes_on_meta(name, form)
    assert found == pytest.approx(taken, rel=0.03)
    model, given, size, instance, reason = row(name, quantize)
    assert f"| {model} | {given} | {size} | {taken / 1e9:.1f} | {instance} | {reason} |" in page


FAMILIES = (
    *("gemma3_text", "falcon", "gpt_neox", "phi3", "starcoder2", "cohere2", "qwen2_moe", "olmoe", "granitemoeshared"),
    *("deepseek_v2", "deepseek_v3", "glm4_moe", "ernie4_5_moe", "llama4_text", "minimax_m2"),
)


@pytest.mark.needs("torch")
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_counted_as_transformers_builds_them(family: str) -> None:
    """Five layers of the family's default model: experts are the parameters of three dimensions."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = CONFIG_MAPPING[family]()
    config.num_hidden_layers = 5
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:5]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    parameters = list(model.parameters())
    output, tied = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    counts = count_weights(config.to_dict())
    assert counts.total == pytest.approx(sum(each.numel() for each in parameters), rel=0.03)
    assert counts.experts == sum(each.numel() for each in parameters if each.dim() == 3)
    assert counts.output == (0 if output is tied else output.numel())
    modules = [
        module for module in model.modules() if any(each.dim() == 3 for each in module.parameters(recurse=False))
    ]
    assert counts.keeps_experts == any(not hasattr(module, "has_post_expert_norm") for module in modules)


@pytest.mark.needs("torch")
@pytest.mark.parametrize("family", ["gemma3_text"])
def test_what_published_files_leave_out_is_what_transformers_says(family: str) -> None:
    """Gemma 3's image models state neither their vocabulary nor, the one of 4 billion weights, its heads."""
    from transformers import CONFIG_MAPPING

    usual = CONFIG_MAPPING[family]().to_dict()
    stated = {"model_type": family, "hidden_size": 2560, "intermediate_size": 10_240, "num_hidden_layers": 34}
    nested = {"model_type": "gemma3", "torch_dtype": "bfloat16", "text_config": stated | {"torch_dtype": None}}
    found = text_values(nested)
    names = ("vocab_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    assert {name: found[name] for name in names} == {name: usual[name] for name in names}
    assert count_weights(nested) == count_weights(usual | stated)
    assert found["torch_dtype"] == "bfloat16", "null says nothing"


@pytest.mark.needs("torch")
def test_the_output_layer_is_tied_by_default_as_in_transformers() -> None:
    from transformers import CONFIG_MAPPING

    families = sorted(TIED_BY_DEFAULT | {*FAMILIES, "llama", "mistral", "mixtral", "qwen3", "gpt_oss", "phi"})
    tied = {name for name in families if CONFIG_MAPPING[name]().get_text_config().tie_word_embeddings}
    assert tied == {name for name in families if name in TIED_BY_DEFAULT}


GROUP_128 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}
CHANNEL_FP8 = {"num_bits": 8, "type": "float", "strategy": "channel"}


def compressed(*weights: dict[str, Any]) -> dict[str, Any]:
    groups = {f"group_{i}": {"weights": each} for i, each in enumerate(weights)}
    return {"quant_method": "compressed-tensors", "config_groups": groups}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # bytes on CPU, compute capability 7.5, 8.6 and 9.0; None is dense
        ({"quant_method": "fp8"}, (1.0625, None, None, None)),
        ({"quant_method": "fp8", "weight_block_size": None}, (1.0625, None, None, 1.0)),
        ({"quant_method": "fbgemm_fp8"}, (1.0625, None, None, 1.0)),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, (1.0625, None, None, 1.0)),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, (0.625, None, None, None)),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, (0.5625, 0.5625, 0.5625, 0.5625)),
        ({"load_in_4bit": True, "bnb_4bit_use_double_quant": True}, (0.5625, 0.516, 0.516, 0.516)),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, (1.125, 1.0, 1.0, 1.0)),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, (0.625, None, 0.531, 0.531)),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, (0.625, None, 0.5625, 0.5625)),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, (0.625, None, 0.625, 0.625)),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1, "desc_act": True}, (0.625, None, 0.516, 0.516)),
        ({"quant_method": "gptq", "bits": 3, "group_size": 128}, (0.625, None, 0.531, 0.531)),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, (1.125, None, 1.0625, 1.0625)),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True}, (0.625, None, 0.531, 0.531)),
        (compressed(GROUP_128), (0.625, None, 0.531, 0.531)),
        (compressed(GROUP_128 | {"num_bits": 8}), (1.125, None, 1.0625, 1.0625)),
        (compressed(GROUP_128, GROUP_128 | {"num_bits": 8}), (1.125, None, 1.0625, 1.0625)),
        (compressed(GROUP_128 | {"actorder": "group"}), (0.625, None, 0.531, 0.531)),
        (compressed(GROUP_128 | {"actorder": "weight"}), (0.625, None, 0.531, 0.531)),
        (compressed(CHANNEL_FP8), (1.0625, None, None, 1.0)),
        (compressed(CHANNEL_FP8 | {"strategy": "block", "block_structure": [128, 128]}), (1.0625, None, None, None)),
        (compressed(GROUP_128 | {"type": "float", "group_size": 32}), (0.5625, None, 1.25, 1.25)),
        (compressed(GROUP_128 | {"type": "float", "group_size": 16}), (0.625, None, None, None)),
        ({"quant_method": "auto-round", "bits": 2, "group_size": 32}, (0.625, None, 0.625, 0.625)),
        (
            {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_data": {}}}},
            (1.125, None, 1.031, 1.031),
        ),
        ({"quant_method": "gguf", "types": ["Q4_K", "Q8_0"]}, (1.125, None, 1.25, 1.25)),
    ],
)
def test_the_table_of_stored_forms(values: dict[str, Any], expected: tuple[float | None, ...]) -> None:
    for capability, each in zip((None, 75, A10G, 90), expected, strict=True):
        form = stored(values, capability)
        assert form.linears == (each if each is None else pytest.approx(each, abs=0.001))
        keeps = form.product in (Product.FP8, Product.BITSANDBYTES)
        assert form.experts == (None if keeps else form.linears)
        assert (form.output, form.refused) == (None, "")
        assert (form.product is Product.DENSE) is (each is None)


def test_mxfp4_is_stored_in_experts_alone() -> None:
    forms = [stored({"quant_method": "mxfp4"}, capability) for capability in (None, 75, A10G, 90)]
    assert [form.linears for form in forms] == [None] * 4
    assert [form.experts for form in forms] == [0.5625, None, 1.25, 1.25]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"quant_method": "aqlm"}, "stored as aqlm has a codebook of vectors"),
        ({"quant_method": "new"}, "stored as new is not known here"),
        ({}, "names no quant_method"),
    ],
)
@pytest.mark.parametrize("capability", [None, 75, 90])
def test_a_form_that_does_not_run_is_refused(values: dict[str, Any], said: str, capability: int | None) -> None:
    form = stored(values, capability)
    assert said in form.refused
    assert form.refused.endswith("take the model in 16 bits, with HF_MODEL_QUANTIZE=int4 if it must be small")
    assert (form.linears, form.product) == (None, None)


def test_fp8_with_a_scale_for_each_tensor_stays_one_byte_where_a_layer_multiplies_it() -> None:
    """Llama 3.1 8B: 6.98 billion weights in linear layers, 1.05 billion that stay in 16 bits."""
    config = config_of("llama-3.1-8b-fp8")
    config["quantization_config"] |= {"weight_block_size": None}
    shape = shape_from_config(config)
    sizes = {it.gpu: weights_bytes(shape, "auto", it) / 1e9 for it in INSTANCES}
    assert sizes["A10G"] == sizes["A100 80GB"] == pytest.approx(16.06, rel=0.01)
    assert sizes["L4"] == sizes["H200"] == pytest.approx(9.08, rel=0.01)
    found = recommend(shape, default_load(shape))
    assert found is not None
    assert found.best.instance.name == "ml.g6.xlarge"
    assert stored(config["quantization_config"], 90, in_bfloat16=False).linears is None


@pytest.mark.parametrize(
    ("quantize", "linears", "output", "on_cpu"),
    [("int4", 0.625, 1.25, (0.625, 1.125)), ("int8", 1.25, 1.25, (1.125, 1.125)), ("eetq", 1.25, 1.25, (1.125, 1.125))],
)
def test_blocks_of_4_and_8_bits(quantize: str, linears: float, output: float, on_cpu: tuple[float, float]) -> None:
    """Each nibble has two bytes of scale and two of zero for 32 weights on CUDA, each weight on CPU."""
    on_gpu, cpu = quantized(quantize, 80), quantized(quantize, None)
    assert (on_gpu.linears, on_gpu.output, on_gpu.experts, on_gpu.refused) == (linears, output, linears, "")
    assert (cpu.linears, cpu.output) == on_cpu
    assert cpu.experts == cpu.linears
    assert (on_gpu.step_bytes, cpu.step_bytes) == (4 * linears, None), "64 rows, and a read for each 16"
    for other in (quantized(quantize, 75), quantized(quantize, 80, in_bfloat16=False)):
        if quantize == "eetq":
            assert (other.linears, other.output, other.refused) == (1.0, None, "")
        else:
            assert other.refused.startswith(
                f"{quantize} needs compute capability 8.0 and bfloat16; take bitsandbytes or"
            )
            assert "bitsandbytes-nf4" in other.refused


def test_an_output_layer_has_8_bits_and_a_tied_one_is_dense() -> None:
    own, tied = WeightCounts(1000, 0, 100, 10, output=100), WeightCounts(1000, 0, 100, 10)
    assert quantized("int4", A10G).num_bytes(own, 2) == 625 + 2 * 110 + 125
    assert quantized("int4", A10G).num_bytes(tied, 2) == 625 + 2 * 110
    assert quantized("bitsandbytes-nf4", A10G).num_bytes(own, 2) == 562 + 2 * 210
    assert quantized("none", A10G).num_bytes(own, 2) == 2 * 1210
    assert own.scaled_to(1320) == WeightCounts(1109, 0, 100, 11, output=100)
    assert own.scaled_to(121).total == 121


def test_auto_leaves_out_what_a_gpu_refuses() -> None:
    names = [[form.name for form in auto_forms(capability)] for capability in (75, 80)]
    assert names == [["none", "bitsandbytes-nf4"], ["none", "int4", "bitsandbytes-nf4"]]
    assert [form.name for form in auto_forms(80, in_bfloat16=False)] == names[0]
    instance = find_instance("ml.g5.12xlarge")
    assert instance
    taken = auto_share(shape_of("qwen2.5-32b"), Load(4096, 8), instance)
    assert (taken.weights.form, taken.span, taken.engines) == ("int4", 2, 2)


@pytest.mark.parametrize("quantize", ["int4", "int8"])
def test_a_gpu_that_multiplies_no_blocks_is_not_recommended(quantize: str) -> None:
    shape = shape_from_config(config_of("llama-3.1-8b") | {"dtype": "float16", "torch_dtype": "float16"})
    t4 = find_instance("ml.g4dn.xlarge")
    assert t4
    fit = check_fit(shape, Load(2048, 1), t4, quantize)
    assert not fit.fits
    assert f"does not load on ml.g4dn.xlarge: {quantize} needs compute capability 8.0" in fit.sentence()
    found = recommend(shape, Load(2048, 1), quantize)
    assert found is not None
    assert found.best.instance.name == "ml.g6.xlarge"
    assert check_fit(shape, Load(2048, 1), t4).quantize == "bitsandbytes-nf4"


def refused_config() -> dict[str, Any]:
    return config_of("llama-3.1-8b") | {"quantization_config": {"quant_method": "aqlm"}}


def refused_shape() -> ModelShape:
    return shape_from_config(refused_config())


def test_the_plan_says_why_it_recommends_nothing_and_the_way_out() -> None:
    spec = make_spec(instance_type="ml.g6.2xlarge")
    plan = make_plan(spec, REGION, shape=refused_shape())
    assert plan.recommendation is None
    assert plan.fit is not None
    assert not plan.fit.fits
    assert "does not load on ml.g6.2xlarge: a checkpoint stored as aqlm" in plan.fit.sentence()
    (said,) = [text for text in plan.warnings if "aqlm" in text]
    assert said.startswith("no instance is recommended: a checkpoint stored as aqlm has a codebook of vectors")
    assert said.endswith("take the model in 16 bits, with HF_MODEL_QUANTIZE=int4 if it must be small")


@pytest.mark.parametrize(
    ("name", "quantize", "said"),
    [
        ("gpt-oss-20b", "auto", ""),
        (
            "mixtral-8x7b",
            "bitsandbytes-nf4",
            "bitsandbytes-nf4 leaves the experts in 16 bits: the weights take 91.5 GB",
        ),
        ("llama-3.1-8b", "bitsandbytes-nf4", ""),
        ("llama-3.1-8b-awq", "auto", ""),
        ("llama-3.1-8b-gptq", "auto", ""),
        ("llama-3.1-8b-fp8", "auto", "stored as fp8 dense at load: 9.3 GB of files take 16.1 GB"),
    ],
)
def test_what_stays_dense_is_said(name: str, quantize: str, said: str) -> None:
    shape, large = shape_of(name), find_instance("ml.p5e.48xlarge")
    assert large
    found = list(fit_warnings(shape, default_load(shape), check_fit(shape, default_load(shape), large, quantize)))
    assert (said in " ".join(found)) if said else not found


@pytest.mark.parametrize(
    ("name", "instance", "quantize", "is_dense"),
    [
        ("qwen2.5-32b", "ml.g5.12xlarge", "none", True),
        ("qwen2.5-32b", "ml.g5.12xlarge", "auto", False),
        ("gpt-oss-20b", "ml.g5.12xlarge", "auto", False),
    ],
)
def test_to_quantise_is_no_advice_where_it_is_done_or_does_nothing(
    name: str, instance: str, quantize: str, is_dense: bool
) -> None:
    shape, found = shape_of(name), find_instance(instance)
    assert found
    warned = " ".join(fit_warnings(shape, default_load(shape), check_fit(shape, default_load(shape), found, quantize)))
    assert "split by layers" in warned
    assert ("quantise it or use a GPU" in warned) is is_dense


def test_the_page_says_that_a_form_does_not_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(refused_config()))
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert main(["plan", str(tmp_path)]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "Not checked the stored form does not load" in page
    assert "Type not given, and the stored form does not load" in page
    assert "aqlm has a codebook of vectors" in page
