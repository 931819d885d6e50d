"""Weights of 4 and 8 bits on pretended GPUs: torch's product, and the same weights dequantised."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from handler.linears.cuda import int4_linear
from handler.linears.cuda.fp8_linear import Fp8Linear
from handler.linears.cuda.int4_layout import unpack
from handler.linears.cuda.int4_linear import MAX_PACKED_ROWS, Int4Linear
from handler.linears.join import join
from handler.linears.quantised_weight import QuantisedWeight
from handler.linears.weight_blocks import quantise
from tests.support.pretend_cuda import Gpus, gpus_of, pretend_cuda

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def gpu() -> Iterator[Gpus]:
    with pretend_cuda(gpus_of("A10G")) as gpus:
        yield gpus


# Inputs decide the layout: 8 tiles of 16 inputs lie together, else 4, else 2.
@pytest.mark.parametrize("inputs", [256, 192, 96])
@pytest.mark.parametrize("bits", [4, 8])
def test_both_ways_multiply_by_the_weights_that_cpu_quantises_to(
    bits: int, inputs: int, gpu: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int4_linear, "_PIECE", 16 * inputs)
    monkeypatch.setattr(int4_linear, "_LOADED_PIECE", 16 * inputs)
    weight, bias = torch.randn(40, inputs).bfloat16(), torch.randn(40).bfloat16()
    layer = Int4Linear.of_weight(weight.to("cuda"), bits, bias.to("cuda"))
    assert (layer.out_features, layer.in_features, layer.group) == (40, inputs, 32)
    expected = quantise(weight, bits).dequantise(torch.float32)
    assert float((layer.weight.cpu().float() - expected).norm() / expected.norm()) < 4e-3, "more than bfloat16 rounds"
    for count in (1, MAX_PACKED_ROWS, MAX_PACKED_ROWS + 1):
        rows = torch.randn(1, count, inputs).bfloat16()
        gpu.reset()
        found = layer(rows.to("cuda")).cpu().float()
        assert gpu.kernels["aten::_weight_int4pack_mm"] == (count <= MAX_PACKED_ROWS)
        products = rows.float() @ expected.T + bias.float()
        assert float((found - products).norm() / products.norm()) < 8e-3


@pytest.mark.parametrize("inputs", [1024, 768, 1536])
@pytest.mark.parametrize("group", [32, 64, 96, 128, 256, 512, -1])
def test_groups_of_any_multiple_of_32(group: int, inputs: int, gpu: Gpus) -> None:
    size = inputs if group == -1 else group
    if inputs % size:
        size = 32
    codes = torch.randint(16, (16, inputs), dtype=torch.uint8)
    scale, zero_point = torch.rand(16, inputs // size).bfloat16(), torch.randint(16, (16, inputs // size))
    weight = QuantisedWeight(4, codes, scale.float(), (-zero_point * scale).float())
    layer = Int4Linear.of_quantised(weight.to("cuda"), None)
    expected = (codes.float() - zero_point.repeat_interleave(size, 1)) * scale.float().repeat_interleave(size, 1)
    # (8 - zero point) * scale is rounded, then the weight: both relative to numbers of at most 8 scales.
    assert float((layer.weight.cpu().float() - expected).abs().max()) <= 16 * 2**-8
    rows = torch.eye(inputs).bfloat16()[:MAX_PACKED_ROWS]
    assert torch.equal(layer(rows.to("cuda")).cpu(), layer.weight.cpu().T[:MAX_PACKED_ROWS])


def test_fp8_parts_that_are_joined_multiply_as_before() -> None:
    with pretend_cuda(gpus_of("L4")):
        codes = [torch.randn(n, 32).to(torch.float8_e4m3fn).to("cuda") for n in (16, 48)]
        parts = [Fp8Linear(each, torch.rand(1).to("cuda"), None) for each in codes]
        rows = torch.randn(3, 32).to("cuda", torch.bfloat16)
        before = torch.cat([part(rows).cpu() for part in parts], -1)
        whole = join(parts)
        assert isinstance(whole, Fp8Linear)
        assert torch.equal(whole(rows).cpu(), before)
        assert torch.equal(torch.cat([part(rows).cpu() for part in parts], -1), before)
        assert join([parts[0], torch.nn.Linear(32, 16)]) is None


def test_few_kernels_no_wait_and_a_graph_dequantise(gpu: Gpus) -> None:
    layer = Int4Linear.of_weight(torch.randn(64, 128).to("cuda", torch.bfloat16), 4, None)
    gpu.reset()
    unpack(layer.packed, layer.scales_and_zeros)
    assert gpu.kernels.total() == 3
    assert not gpu.waits
    assert not gpu.uploads
    rows = torch.zeros(MAX_PACKED_ROWS + 1, 128).to("cuda", torch.bfloat16)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = layer(rows)
    rows.copy_(torch.randn(rows.shape).to("cuda", torch.bfloat16))
    graph.replay()
    assert torch.equal(found.cpu(), layer(rows).cpu())


def test_parts_that_are_joined_multiply_as_before(gpu: Gpus) -> None:
    biases = (None, torch.ones(32).to("cuda", torch.bfloat16))
    weights = [torch.randn(n, 96).to("cuda", torch.bfloat16) for n in (16, 32)]
    parts = [Int4Linear.of_weight(weight, 4, bias) for weight, bias in zip(weights, biases, strict=True)]
    rows = torch.randn(3, 96).to("cuda", torch.bfloat16)
    before = torch.cat([part(rows).cpu() for part in parts], -1)
    whole = join(parts)
    assert isinstance(whole, Int4Linear)
    assert torch.equal(whole(rows).cpu(), before)
    assert torch.equal(torch.cat([part(rows).cpu() for part in parts], -1), before)
    assert parts[1].packed.data_ptr() == whole.packed[2:].data_ptr()
    assert parts[1].scales_and_zeros.data_ptr() == whole.scales_and_zeros[:, 16:].data_ptr()
    assert join([parts[0], Int4Linear.of_weight(weights[1], 8, None)]) is None


def multiply(dtype: torch.dtype, inputs: int) -> None:
    ops = torch.ops.aten
    packed = ops._convert_weight_to_int4pack(torch.zeros(8, inputs // 2, dtype=torch.uint8).to("cuda"), 2)
    scales = torch.zeros(inputs // 32, 8, 2).to("cuda", torch.bfloat16)
    ops._weight_int4pack_mm(torch.zeros(1, inputs).to("cuda", dtype), packed, 32, scales)


@pytest.mark.parametrize(
    ("kind", "rows", "inputs", "message"),
    [
        ("T4", torch.bfloat16, 64, "invalid device function"),
        ("A100", torch.float16, 64, "kBFloat16"),
        ("A100", torch.bfloat16, 48, "isEvenDivisor"),
    ],
)
def test_the_device_refuses_what_the_product_does(kind: str, rows: torch.dtype, inputs: int, message: str) -> None:
    with pretend_cuda(gpus_of(kind)), pytest.raises(RuntimeError, match=message):
        multiply(rows, inputs)
