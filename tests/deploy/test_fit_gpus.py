"""How the fit shares several GPUs, which is for the container to decide."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_memory.forms import auto_forms, quantized
from model_memory.sharing import Weights
from model_memory.weight_counts import WeightCounts
from sagemaker_deploy.plan import make_plan
from sagemaker_deploy.request.instances import INSTANCES, Instance, find_instance
from sagemaker_deploy.request.spec import ComponentOptions
from sagemaker_deploy.sizing.fit import Load, check_fit, fit_warnings
from sagemaker_deploy.sizing.model_shape import ModelShape, shape_from_config
from sagemaker_deploy.sizing.recommendation import recommend
from tests.deploy.conftest import REGION, make_spec
from tests.deploy.shapes import LLAMA_70B, QWEN3_8B

LOAD = Load(context=8192, concurrency=8)


def test_gpus_hold_copies_when_the_model_fits_one_and_parts_when_not() -> None:
    eight, four = shape_from_config(QWEN3_8B), find_instance("ml.g6.12xlarge")
    assert four
    copied = check_fit(eight, Load(2048, 16), four)
    assert (copied.copies, copied.span, copied.quantize) == (4, 1, "none")
    assert "(4 copies, 4 of 4 x L4)" in copied.sentence()
    assert copied.kv_mib * 4 == check_fit(eight, Load(2048, 16), four, max_gpus=1).kv_mib, "copies share the requests"
    large = shape_from_config(LLAMA_70B)
    parts = check_fit(large, Load(2048, 1), four, "bitsandbytes-nf4")
    assert (parts.copies, parts.span, parts.fits) == (1, 3, True)
    warned = " ".join(fit_warnings(large, LOAD, parts))
    assert "1 of the 4 GPUs of ml.g6.12xlarge stay idle: the container uses 3" in warned
    assert "split by layers over 3 GPUs" in warned
    assert "split" not in " ".join(fit_warnings(eight, LOAD, copied))


@pytest.mark.parametrize(
    ("change", "gpus"),
    [({}, 4), ({"num_gpus": 2}, 2), ({"component": ComponentOptions(memory_mib=1024, num_gpus=1)}, 1)],
)
def test_the_plan_knows_how_many_gpus_the_container_sees(change: dict[str, Any], gpus: int) -> None:
    spec = make_spec(instance_type="ml.g6.12xlarge", **change)
    plan = make_plan(spec, REGION, shape=shape_from_config(QWEN3_8B), load=Load(2048, 4))
    assert plan.fit is not None
    assert plan.fit.gpus == gpus
    assert plan.recommended is not None
    assert plan.recommended.gpus == (gpus if change else 1)
    assert plan.recommended.instance.num_gpus >= plan.recommended.gpus
    assert any(f"{4 - gpus} of the 4 GPUs" in text for text in plan.warnings) == (gpus < 4)


def test_the_plan_says_which_variables_it_did_not_weigh() -> None:
    shape = shape_from_config(QWEN3_8B)
    spec = make_spec(environment={"ENGINE_REPLICAS": "1", "QUANTIZE": "none", "OTHER": "1"})
    assert any(
        "fit check ignores ENGINE_REPLICAS, QUANTIZE" in text for text in make_plan(spec, REGION, shape=shape).warnings
    )
    assert not any("fit check ignores" in text for text in make_plan(make_spec(), REGION, shape=shape).warnings)


def test_layers_are_whole() -> None:
    """36 layers over 8 GPUs: the fullest holds 5 of them, more than an eighth of the model."""
    eight = find_instance("ml.g6.48xlarge")
    assert eight
    shape = ModelShape(WeightCounts(64 * 10**9, 0, 0), 2**20, 0, "bfloat16", num_layers=36)
    assert check_fit(shape, Load(1024, 1), eight, "none").span == 7
    assert check_fit(shape, Load(1024, 1), eight, "none").weights_mib == math.ceil(128e9 / 2**20 * 6 / 36)


def test_gpus_the_container_may_not_use_do_not_help() -> None:
    four = find_instance("ml.g6.12xlarge")
    assert four
    shape = shape_from_config(LLAMA_70B)
    alone = check_fit(shape, Load(2048, 1), four, "bitsandbytes-nf4", max_gpus=1)
    assert not alone.fits
    assert any("3 of the 4 GPUs of ml.g6.12xlarge stay idle" in it for it in fit_warnings(shape, LOAD, alone))
    found = recommend(shape, LOAD, max_gpus=1)
    assert found is not None
    assert (found.best.instance.name, found.best.quantize) == ("ml.g7e.2xlarge", "int4")


@pytest.mark.needs("torch")
@given(
    gpus_full=st.floats(0.01, 9), instance=st.sampled_from(INSTANCES), max_gpus=st.sampled_from([None, 1, 2, 3, 4, 8])
)
def test_gpus_are_shared_as_the_container_shares_them(
    gpus_full: float, instance: Instance, max_gpus: int | None
) -> None:
    """Against the container's own rule, where its packages are installed; weights that fill so many GPUs."""
    import torch

    from handler.model.placement import Needs, choose_devices
    from handler.seam.config import EngineConfig

    if max_gpus is not None and max_gpus > instance.num_gpus:
        return
    shape = ModelShape(WeightCounts(int(gpus_full * instance.gpu_mib * 2**20 / 2), 0, 0), 1, 0, "bfloat16")
    config = EngineConfig(num_devices=max_gpus or 0)
    gpus = (instance.gpu_mib * 2**20,) * instance.num_gpus
    for quantize, forms in (("none", [quantized("none", None)]), ("auto", auto_forms(instance.capability))):
        fit = check_fit(shape, Load(1, 1), instance, quantize, max_gpus)
        weights = [Weights(it.name, it.num_bytes(shape.counts, 2), it.moved_bytes(shape.counts, 2)) for it in forms]
        devices = choose_devices(config, torch.device("cuda"), Needs(tuple(weights), 4096), gpus)
        if fit.fits or quantize == "none":
            assert (fit.copies, fit.span) == (devices.num_engines, len(devices.own))
            assert fit.quantize == devices.quantize or quantize == "none"
