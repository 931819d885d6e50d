"""Whether a model fits, against sizes that are known from the models' own pages."""

from __future__ import annotations

import dataclasses
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.errors import PreflightError, SpecError
from sagemaker_deploy.request.instances import INSTANCES, find_instance
from sagemaker_deploy.request.spec import CPU_QUANTIZATIONS, QUANTIZATIONS, STORED_QUANTIZATIONS
from sagemaker_deploy.sizing.fit import BYTES_PER_PARAM, Load, check_fit, fit_warnings, recommend, weights_bytes
from sagemaker_deploy.sizing.model_shape import ModelShape, shape_from_config
from sagemaker_deploy.sizing.model_source import load_shape
from tests.deploy.conftest import make_spec
from tests.deploy.shapes import GPT2, LLAMA_70B, MIXTRAL, QWEN3_8B

LOAD = Load(context=8192, concurrency=8)


@pytest.mark.parametrize(("config", "billions"), [(QWEN3_8B, 8.19), (LLAMA_70B, 70.55), (MIXTRAL, 46.7), (GPT2, 0.124)])
def test_parameters_are_estimated_within_a_percent(config: dict[str, Any], billions: float) -> None:
    assert shape_from_config(config).num_params / 1e9 == pytest.approx(billions, rel=0.01)


def test_cache_of_a_token() -> None:
    assert shape_from_config(QWEN3_8B).kv_bytes_per_token == 2 * 2 * 36 * 8 * 128
    hybrid = QWEN3_8B | {"layer_types": ["linear_attention", "full_attention"] * 18}
    assert shape_from_config(hybrid).kv_bytes_per_token == 2 * 2 * 18 * 8 * 128
    assert shape_from_config(GPT2 | {"multi_query": True}).kv_bytes_per_token == 2 * 2 * 12 * 1 * 64


def test_latent_attention_is_counted_as_transformers_stores_it() -> None:
    mla = QWEN3_8B | {"qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
    assert shape_from_config(mla).kv_bytes_per_token == 2 * 36 * 32 * (128 + 64 + 128)


def test_the_text_part_of_a_multimodal_model_counts() -> None:
    nested = {"model_type": "gemma3", "text_config": QWEN3_8B, "vision_config": {"hidden_size": 1}}
    assert shape_from_config(nested) == shape_from_config(QWEN3_8B)


def test_the_files_size_wins_over_the_estimate() -> None:
    assert shape_from_config(QWEN3_8B, checkpoint_bytes=20_000_000).num_params == 10_000_000
    packed = shape_from_config(QWEN3_8B | {"quantization_config": {"bits": 4}}, checkpoint_bytes=6_000_000_000)
    assert packed.packed_bytes == 6_000_000_000
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
        (LLAMA_70B, "auto", LOAD, "ml.g6e.12xlarge", "none"),
        (LLAMA_70B, "bitsandbytes-nf4", LOAD, "ml.p5.4xlarge", "bitsandbytes-nf4"),
        (QWEN3_8B, "eetq", LOAD, "ml.g6.xlarge", "eetq"),
        (QWEN3_8B | {"torch_dtype": "float16"}, "bitsandbytes-nf4", Load(4096, 4), "ml.g4dn.xlarge", None),
    ],
)
def test_the_smallest_instance_that_fits(
    config: dict[str, Any], quantize: str, load: Load, instance: str, chosen: str | None
) -> None:
    best = recommend(shape_from_config(config), load, quantize)
    assert best is not None
    assert best.instance.name == instance
    assert best.quantize == (chosen or quantize)
    assert "fits" in best.sentence()


def test_auto_takes_the_least_lossy_that_fits() -> None:
    small = find_instance("ml.g6.xlarge")
    assert small
    shape = shape_from_config(QWEN3_8B)
    assert check_fit(shape, Load(2048, 4), small).quantize == "none"
    assert check_fit(shape, Load(8192, 6), small).quantize == "bitsandbytes"
    assert check_fit(shape, Load(8192, 10), small).quantize == "bitsandbytes-nf4"
    nothing = check_fit(shape, Load(40960, 64), small)
    assert not nothing.fits
    assert "does not fit ml.g6.xlarge" in nothing.sentence()


@pytest.mark.parametrize("quantize", QUANTIZATIONS)
def test_every_quantisation_of_a_gpu_has_a_weight(quantize: str) -> None:
    """Else it would be weighed as if it were none; what only a stored checkpoint has is weighed by its files."""
    if quantize in CPU_QUANTIZATIONS:
        with pytest.raises(SpecError, match=r"ml\.g6\.2xlarge has one"):
            make_spec(quantize=quantize)
    elif quantize in STORED_QUANTIZATIONS:
        packed = dataclasses.replace(shape_from_config(QWEN3_8B), packed_bytes=6_000_000_000)
        assert weights_bytes(packed, quantize) == 6_000_000_000
        small = INSTANCES[0]
        assert not list(fit_warnings(packed, LOAD, check_fit(packed, LOAD, small, quantize)))
        dense = shape_from_config(QWEN3_8B)
        (warning,) = fit_warnings(dense, LOAD, check_fit(dense, LOAD, small, quantize))
        assert "has no quantization_config" in warning
    else:
        assert quantize == "auto" or quantize in BYTES_PER_PARAM


def test_nothing_fits_the_impossible() -> None:
    assert recommend(ModelShape(10**14, 0, 1, 0, "bfloat16"), LOAD) is None


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
def hub_url() -> Iterator[str]:
    """A Hub with two models: one in shards with an index, one without."""
    files = {
        "/org/big/resolve/main/config.json": QWEN3_8B,
        "/org/big/resolve/main/model.safetensors.index.json": {"metadata": {"total_size": 2000}},
        "/org/small/resolve/v1/config.json": QWEN3_8B,
    }

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(files.get(self.path)).encode()
            self.send_response(200 if self.path in files else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_model_is_weighed_on_the_hub(hub_url: str) -> None:
    assert load_shape("org/big", hub_url=hub_url).num_params == 1000
    assert load_shape("org/small", revision="v1", hub_url=hub_url).num_params > 8e9
    with pytest.raises(PreflightError, match=r"could not be read from the Hub.*404") as caught:
        load_shape("org/none", hub_url=hub_url)
    assert "local directory" in caught.value.remedy
    with pytest.raises(PreflightError, match="not a web address"):
        load_shape("org/none", hub_url="ftp://hub")
