"""Whether a model fits, against sizes that are known from the models' own pages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_memory.weight_counts import WeightCounts
from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.errors import PreflightError, SpecError
from sagemaker_deploy.plan import make_plan
from sagemaker_deploy.request.instances import INSTANCES, find_instance
from sagemaker_deploy.request.spec import QUANTIZATIONS, STORED_QUANTIZATIONS
from sagemaker_deploy.sizing.fit import Load, auto_warning, check_fit, fit_warnings, weights_bytes
from sagemaker_deploy.sizing.hub import Hub
from sagemaker_deploy.sizing.model_shape import ModelShape, shape_from_config
from sagemaker_deploy.sizing.model_source import load_shape, read_model
from sagemaker_deploy.sizing.recommendation import family, price_rank, recommend
from tests.deploy.conftest import make_spec
from tests.deploy.shapes import GPT2, LLAMA_70B, MIXTRAL, QWEN3_8B
from tools.plan_picture.hub import StandInHub

LOAD = Load(context=8192, concurrency=8)
MODELOPT = {"quantization": {"quant_algo": "NVFP4"}}


@pytest.mark.parametrize(("config", "billions"), [(QWEN3_8B, 8.19), (LLAMA_70B, 70.55), (MIXTRAL, 46.7), (GPT2, 0.124)])
def test_parameters_are_estimated_within_a_percent(config: dict[str, Any], billions: float) -> None:
    assert shape_from_config(config).num_params / 1e9 == pytest.approx(billions, rel=0.01)


def test_cache_of_a_token() -> None:
    assert shape_from_config(QWEN3_8B).kv_bytes_per_token == 2 * 2 * 36 * 8 * 128
    hybrid = QWEN3_8B | {"layer_types": ["linear_attention", "full_attention"] * 18}
    assert shape_from_config(hybrid).kv_bytes_per_token == 2 * 2 * 18 * 8 * 128
    assert shape_from_config(GPT2 | {"multi_query": True}).kv_bytes_per_token == 2 * 2 * 12 * 1 * 64


def test_keys_in_8_bits_take_half_and_their_scales() -> None:
    """As `plan` reads KV_CACHE_DTYPE from the container's environment."""
    shape = shape_from_config(QWEN3_8B)
    for name in ("int8", "fp8", "fp8_e4m3fn", "fp8_e5m2"):
        assert shape.with_keys(name).kv_bytes_per_token == 2 * 36 * 8 * (128 + 4)
    assert shape.with_keys("auto") == shape.with_keys("") == shape
    spec = make_spec(environment={"KV_CACHE_DTYPE": "int8"})
    planned = make_plan(spec, "eu-west-1", shape=shape, load=LOAD).sizes.shape
    assert planned is not None
    assert planned.kv_bytes_per_token == 2 * 36 * 8 * (128 + 4)


@pytest.mark.parametrize(
    ("change", "slots"),
    [
        ({}, 0),
        ({"enable_adapters": True}, 8 * 64),
        ({"environment": {"OPTION_ENABLE_LORA": "true", "OPTION_MAX_LORAS": "4", "MAX_ADAPTER_RANK": "16"}}, 4 * 16),
        ({"environment": {"LORA_ADAPTERS": "a=org/a", "MAX_ADAPTERS": "2"}}, 2 * 64),
        ({"environment": {"ENABLE_ADAPTERS": "true", "MAX_ADAPTERS": "0"}}, 0),
    ],
)
def test_memory_set_aside_for_adapters_is_counted(change: dict[str, Any], slots: int) -> None:
    """349 MB for one of rank 64 (docs/adapters.md)."""
    spec = make_spec(instance_type="ml.g6.xlarge", **change)
    fit = make_plan(spec, "eu-west-1", shape=shape_from_config(QWEN3_8B), load=LOAD).fit
    assert fit is not None
    assert fit.adapters_mib == pytest.approx(slots * 349e6 / 64 / 2**20, rel=0.01)
    assert fit.needed_mib == fit.weights_mib + fit.kv_mib + fit.adapters_mib + 1536
    assert ("MiB adapters" in fit.sentence()) == bool(slots)


def test_a_draft_model_takes_weights_and_keys(tmp_path: Path) -> None:
    """As `plan` reads SPECULATIVE_MODEL from the container's environment: a directory here, else by its name."""
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_8B))
    shape, instance = shape_from_config(LLAMA_70B), find_instance("ml.p4d.24xlarge")
    assert instance is not None
    small = shape_from_config(QWEN3_8B)
    plans = {
        name: make_plan(make_spec(environment={"SPECULATIVE_MODEL": name}), "eu-west-1", shape=shape, load=LOAD)
        for name in ("", str(tmp_path), "org/small-8B", "org/small")
    }
    shapes = {name: plan.sizes.shape for name, plan in plans.items()}
    found = shapes[str(tmp_path)]
    assert found == shape.with_draft(small)
    assert found.kv_bytes_per_token == shape.kv_bytes_per_token + small.kv_bytes_per_token
    more = weights_bytes(found, "none", instance) - weights_bytes(shape, "none", instance)
    assert more == found.draft_bytes == 2 * small.num_params
    assert shapes["org/small-8B"].draft_bytes == pytest.approx(16e9, rel=0.1)
    assert shapes["org/small"] == shapes[""] == shape
    warned = [
        name for name, plan in plans.items() if any("leaves out the draft model" in each for each in plan.warnings)
    ]
    assert warned == ["org/small"]


def test_latent_attention_is_counted_as_transformers_stores_it() -> None:
    mla = QWEN3_8B | {"qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
    assert shape_from_config(mla).kv_bytes_per_token == 2 * 36 * 32 * (128 + 64 + 128)


def test_the_text_part_of_a_multimodal_model_counts() -> None:
    nested = {"model_type": "gemma3", "text_config": QWEN3_8B, "vision_config": {"hidden_size": 1}}
    assert shape_from_config(nested) == shape_from_config(QWEN3_8B)


def test_the_files_size_wins_over_the_estimate() -> None:
    assert shape_from_config(QWEN3_8B, checkpoint_bytes=20_000_000).num_params == 10_000_000
    packed = shape_from_config(QWEN3_8B | {"quantization_config": {"bits": 4}}, checkpoint_bytes=6_000_000_000)
    assert packed.stored_bytes == 6_000_000_000
    assert packed.checkpoint_gb == 6.0
    assert shape_from_config(QWEN3_8B).checkpoint_gb == pytest.approx(16.38, rel=0.01)


def test_no_text_decoder_is_said() -> None:
    with pytest.raises(SpecError, match="'vit' does not define"):
        shape_from_config({"model_type": "vit", "hidden_size": 8})


@pytest.mark.parametrize(
    ("config", "quantize", "load", "instance", "chosen"),
    [
        (QWEN3_8B, "auto", Load(2048, 4), "ml.g6.xlarge", "none"),
        (QWEN3_8B, "none", LOAD, "ml.g7.2xlarge", "none"),
        (QWEN3_8B, "bitsandbytes-nf4", LOAD, "ml.g6.xlarge", "bitsandbytes-nf4"),
        (LLAMA_70B, "auto", LOAD, "ml.g7e.2xlarge", "int4"),
        (LLAMA_70B, "none", LOAD, "ml.g7e.12xlarge", "none"),
        (LLAMA_70B, "bitsandbytes-nf4", LOAD, "ml.g7e.2xlarge", "bitsandbytes-nf4"),
        (QWEN3_8B, "bitsandbytes", LOAD, "ml.g6.xlarge", "bitsandbytes"),
        (QWEN3_8B, "int4", LOAD, "ml.g6.xlarge", "int4"),
        (QWEN3_8B, "int8", LOAD, "ml.g7.2xlarge", "int8"),
        (QWEN3_8B, "eetq", LOAD, "ml.g7.2xlarge", "eetq"),
        (QWEN3_8B | {"torch_dtype": "float16"}, "bitsandbytes-nf4", Load(4096, 4), "ml.g4dn.xlarge", None),
    ],
)
def test_the_cheapest_instance_that_fits(
    config: dict[str, Any], quantize: str, load: Load, instance: str, chosen: str | None
) -> None:
    found = recommend(shape_from_config(config), load, quantize)
    assert found is not None
    best = found.best
    assert best.instance.name == instance
    assert best.quantize == (chosen or quantize)
    assert "fits" in best.sentence()


def test_auto_takes_the_least_lossy_that_fits() -> None:
    small = find_instance("ml.g6.xlarge")
    assert small
    shape = shape_from_config(QWEN3_8B)
    assert check_fit(shape, Load(2048, 4), small).quantize == "none"
    assert check_fit(shape, Load(8192, 6), small).quantize == "int4"
    assert check_fit(shape, Load(8192, 10), small).quantize == "int4"
    # A tied output layer stays dense under int4 and nf4, and nf4 is smaller.
    tied = ModelShape(WeightCounts(29 * 10**9, 0, 10**9), 2**17, 0, "bfloat16")
    assert check_fit(tied, Load(2048, 1), small).quantize == "bitsandbytes-nf4"
    nothing = check_fit(shape, Load(40960, 64), small)
    assert not nothing.fits
    assert "does not fit ml.g6.xlarge" in nothing.sentence()


def kept(method: str, **values: Any) -> ModelShape:
    """Qwen3-8B in a stored form, of 6 GB of files."""
    return shape_from_config(QWEN3_8B | {"quantization_config": {"quant_method": method, **values}}, 6_000_000_000)


@pytest.mark.parametrize("quantize", QUANTIZATIONS)
def test_every_quantisation_of_a_gpu_has_a_weight(quantize: str) -> None:
    """Else it would be weighed as if it were none; what only a stored checkpoint has is refused for a dense one."""
    small, dense = INSTANCES[0], shape_from_config(QWEN3_8B)
    if quantize in STORED_QUANTIZATIONS:
        (warning,) = fit_warnings(dense, LOAD, check_fit(dense, LOAD, small, quantize))
        assert "has no quantization_config" in warning
    elif quantize not in ("auto", "none"):
        assert make_spec(quantize=quantize).quantize == quantize
        assert weights_bytes(dense, quantize, small) < 0.7 * weights_bytes(dense, "none", small)


def test_a_stored_checkpoint_keeps_its_form() -> None:
    packed = kept("bitsandbytes", load_in_4bit=True)
    for quantize, warned in (("auto", 0), ("gptq", 0), ("none", 1), ("bitsandbytes", 1)):
        found = list(fit_warnings(packed, LOAD, check_fit(packed, LOAD, INSTANCES[0], quantize)))
        assert len(found) == warned
        assert all("does nothing" in text for text in found)
        assert weights_bytes(packed, quantize, INSTANCES[0]) == 6_000_000_000


@dataclass(frozen=True)
class Tensor:
    kind: str
    shape: tuple[int, ...]


def test_a_gguf_file_keeps_its_types_under_auto_and_int4() -> None:
    """Q6_K's groups of 16 have no product on a GPU; other values than `auto` and `int4` dequantise first."""
    size = 8192 * 8192
    tensors = {f"blk.{i}.ffn_up.weight": Tensor("Q4_K", (8192, 8192)) for i in range(39)}
    tensors |= {"blk.0.ffn_down.weight": Tensor("Q6_K", (8192, 8192)), "a.weight": Tensor("Q4_K", (8191, 8192))}
    shape = ModelShape(WeightCounts(41 * size, 0, 0), 1, 0, "bfloat16", num_layers=39, file_bytes=1, tensors=tensors)
    a10g, t4 = find_instance("ml.g5.xlarge"), find_instance("ml.g4dn.xlarge")
    assert a10g is not None
    assert t4 is not None
    in_16_bits = 2 * (size + 8191 * 8192)  # no kernel takes 8,191 outputs
    for quantize in ("auto", "int4"):
        assert weights_bytes(shape, quantize, a10g) == 39 * size * 0.625 + in_16_bits
        assert weights_bytes(shape, quantize, t4) == 39 * size * 2 + in_16_bits
        assert check_fit(shape, LOAD, a10g, quantize).stored == "stored as gguf"
    assert weights_bytes(shape, "none", a10g) == 41 * size * 2
    (note,) = fit_warnings(shape, LOAD, check_fit(shape, LOAD, a10g))
    assert note.startswith("the container makes the file's weights of Q6_K dense at load: 0.0 GB take 1.9 GB")
    assert auto_warning(shape, LOAD, check_fit(shape, LOAD, a10g)) == ""
    found = recommend(shape, LOAD)
    assert found is not None
    assert (found.best.quantize, found.best.stored) == ("auto", "stored as gguf")


def test_nothing_fits_the_impossible() -> None:
    assert recommend(ModelShape(WeightCounts(10**14, 0, 0), 1, 0, "bfloat16"), LOAD) is None


def test_what_the_verdict_does_not_cover_is_said() -> None:
    t4 = find_instance("ml.g4dn.xlarge")
    assert t4
    shape = shape_from_config(LLAMA_70B)
    text = " ".join(fit_warnings(shape, Load(200_000, 1), check_fit(shape, LOAD, t4)))
    assert "context is 131072 tokens" in text
    assert "no bfloat16" in text
    assert "larger than the host's memory (16 GiB)" in text
    assert "local disk (125 GB)" in text


@given(
    context=st.integers(1, 100_000),
    concurrency=st.integers(1, 256),
    instance=st.sampled_from(INSTANCES),
    quantize=st.sampled_from(["none", "bitsandbytes", "bitsandbytes-nf4"]),
)
def test_more_load_never_fits_better(context: int, concurrency: int, instance: Any, quantize: str) -> None:
    shape = shape_from_config(QWEN3_8B)
    if check_fit(shape, Load(context, concurrency + 1), instance, quantize).fits:
        assert check_fit(shape, Load(context, concurrency), instance, quantize).fits


def test_a_model_is_weighed_in_a_directory(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match=r"no usable config\.json"):
        load_shape(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_8B))
    (tmp_path / "model.safetensors").write_bytes(b"x" * 1000)
    assert load_shape(str(tmp_path)).num_params == 500


def test_a_model_is_weighed_in_s3(clients: Clients) -> None:
    s3 = clients["s3"]
    s3.create_bucket(Bucket="weights")
    with pytest.raises(PreflightError, match=r"no config\.json directly below"):
        load_shape("s3://weights/llm/", s3=s3)
    s3.put_object(Bucket="weights", Key="llm/config.json", Body=json.dumps(QWEN3_8B))
    s3.put_object(Bucket="weights", Key="llm/a.safetensors", Body=b"x" * 600)
    s3.put_object(Bucket="weights", Key="llm/b.safetensors", Body=b"x" * 400)
    s3.put_object(Bucket="weights", Key="llm/old/c.safetensors", Body=b"x" * 400)
    assert load_shape("s3://weights/llm/", s3=s3).num_params == 500


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    """A Hub with models in shards with an index, in one file, without a list of files, and gated."""
    listing = [
        {"type": "file", "path": "config.json", "size": 700},
        {"type": "file", "path": "model.safetensors", "size": 3000},
        {"type": "directory", "path": "onnx", "size": 0},
    ]
    files = {
        "/org/big/resolve/main/config.json": QWEN3_8B,
        "/org/big/resolve/main/model.safetensors.index.json": {"metadata": {"total_size": 2000}},
        "/org/single/resolve/main/config.json": QWEN3_8B,
        "/api/models/org/single/tree/main": listing,
        "/org/pickle/resolve/main/config.json": QWEN3_8B,
        "/api/models/org/pickle/tree/main": [{"type": "file", "path": "pytorch_model.bin", "size": 9}],
        "/org/gguf/resolve/main/config.json": QWEN3_8B,
        "/api/models/org/gguf/tree/main": [{"type": "file", "path": "m.gguf", "size": 9}],
        "/org/small/resolve/v1/config.json": QWEN3_8B,
        "/org/gated/resolve/main/config.json": 401,
        "/org/moved/resolve/main/config.json": "/org/big/resolve/main/config.json",
        "/org/list/resolve/main/config.json": [1],
    }
    nvidia = "/org/nvidia/resolve/main"
    files |= {f"{nvidia}/config.json": QWEN3_8B, f"{nvidia}/hf_quant_config.json": MODELOPT}
    with StandInHub(files) as stand_in:
        yield stand_in


def test_a_model_is_weighed_on_the_hub(hub: StandInHub) -> None:
    there = Hub(hub.url)
    assert load_shape("org/big", hub=there).num_params == 1000
    assert load_shape("org/single", hub=there).num_params == 1500
    assert load_shape("org/small", revision="v1", hub=there).num_params > 8e9
    assert "org/big" in hub.seen[0][0]
    assert "pytorch_model.bin is a pickle" in read_model("org/pickle", hub=there).problem()
    assert "m.gguf is served if a directory or S3 holds it" in read_model("org/gguf", hub=there).problem()
    assert read_model("org/single", hub=there).problem() == ""
    with pytest.raises(PreflightError, match=r"could not be read from the Hub: 404") as caught:
        load_shape("org/none", hub=there)
    assert "local directory" in caught.value.remedy
    with pytest.raises(PreflightError, match="401, it is misspelt, private or gated"):
        load_shape("org/gated", hub=there)
    with pytest.raises(PreflightError, match="not a JSON object"):
        load_shape("org/list", hub=there)
    for wrong in ("ftp://hub", "http://127.0.0.1:1"):
        with pytest.raises(PreflightError, match="could not be read from the Hub"):
            load_shape("org/none", hub=Hub(wrong))


def test_the_form_of_modelopts_own_file_is_weighed(hub: StandInHub, clients: Clients, tmp_path: Path) -> None:
    """Its older versions wrote nothing to config.json."""
    s3 = clients["s3"]
    s3.create_bucket(Bucket="nvidia")
    for name, values in {"config.json": QWEN3_8B, "hf_quant_config.json": MODELOPT}.items():
        (tmp_path / name).write_text(json.dumps(values))
        s3.put_object(Bucket="nvidia", Key=f"m/{name}", Body=json.dumps(values))
    expected = {"quant_method": "modelopt", **MODELOPT}
    assert load_shape("org/nvidia", hub=Hub(hub.url)).stored == expected
    assert load_shape("s3://nvidia/m/", s3=s3).stored == expected
    assert load_shape(str(tmp_path)).stored == expected
    for text in ("{", "[1]", "1"):
        (tmp_path / "hf_quant_config.json").write_text(text)
        assert load_shape(str(tmp_path)).stored is None


def test_the_hubs_token_goes_to_the_hub_alone(hub: StandInHub) -> None:
    load_shape("org/moved", hub=Hub(hub.url, "hf_secret"))
    assert {token for _, token in hub.seen} == {"Bearer hf_secret"}
    with StandInHub({"/stored": QWEN3_8B}) as elsewhere:
        hub.files["/org/moved/resolve/main/config.json"] = f"{elsewhere.url}/stored"
        load_shape("org/moved", hub=Hub(hub.url, "hf_secret"))
        assert elsewhere.seen == [("/stored", None)]
    assert "hf_secret" not in repr(Hub(hub.url, "hf_secret"))


def test_the_hub_is_found_by_the_usual_variables() -> None:
    own, outer = {"HF_API_TOKEN": "a", "HF_TOKEN": ""}, {"HF_ENDPOINT": "http://mirror/", "HF_HUB_OFFLINE": "1"}
    assert Hub.from_environment(own, outer) == Hub("http://mirror", "a", is_offline=True)
    assert Hub.from_environment({"HF_HUB_OFFLINE": "0"}, outer) == Hub("http://mirror")
    with pytest.raises(PreflightError, match="HF_HUB_OFFLINE is set"):
        load_shape("org/big", hub=Hub(is_offline=True))


def test_what_else_could_be_taken_is_said() -> None:
    found = recommend(shape_from_config(QWEN3_8B), LOAD)
    assert found is not None
    assert (found.best.instance.name, found.best.quantize) == ("ml.g7.2xlarge", "none")
    assert "cheapest type with room for the weights unquantised" in found.reason()
    others = [(fit.instance.name, fit.quantize) for fit in found.alternatives]
    assert others == [
        *(("ml.g6.xlarge", "int4"), ("ml.g6e.xlarge", "none")),
        *(("ml.g7e.2xlarge", "none"), ("ml.g6.12xlarge", "none")),
    ]
    assert all(fit.fits for fit in found.alternatives)


def test_every_family_has_a_rank_and_larger_sizes_of_a_family_cost_more() -> None:
    by_family: dict[str, list[Any]] = {}
    for instance in INSTANCES:
        by_family.setdefault(family(instance), []).append(instance)
    for members in by_family.values():
        by_size = sorted(members, key=lambda it: (it.num_gpus, it.vcpus))
        assert sorted(members, key=price_rank) == by_size


def test_a_stored_form_that_was_not_weighed_is_estimated() -> None:
    four = shape_from_config(QWEN3_8B | {"quantization_config": {"quant_method": "awq", "bits": 4}})
    eight = shape_from_config(QWEN3_8B | {"quantization_config": {"quant_method": "fp8"}})
    assert four.stored_bytes is not None
    assert eight.stored_bytes is not None
    assert 5e9 < four.stored_bytes < 7e9 < eight.stored_bytes < 11e9
    assert shape_from_config(QWEN3_8B | {"quantization_config": None}).stored is None


@pytest.mark.parametrize("config", [[], "x", {"text_config": []}, {**QWEN3_8B, "hidden_size": "wide"}])
def test_a_config_that_says_nothing_is_refused_in_a_sentence(config: Any) -> None:
    with pytest.raises(SpecError, match=r"config\.json"):
        shape_from_config(config)
