"""Quantised products on a GPU, or on a pretended one: the layout that is read back is the one that the GPU wrote.

`pytest -m gpu tests/engine/test_gpu_linears.py -rA` on any machine that has a GPU.
"""

from __future__ import annotations

import pytest
import torch

from handler.linears.cuda.fp8_linear import Fp8Linear, multiplies_fp8
from handler.linears.cuda.int4_linear import MAX_PACKED_ROWS, Int4Linear, multiplies_int4
from handler.linears.weight_blocks import quantise

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu", "one_thread")]
BFLOAT16 = torch.bfloat16


@pytest.mark.parametrize("count", [1, 3, MAX_PACKED_ROWS, MAX_PACKED_ROWS + 1])
@pytest.mark.parametrize(("outputs", "inputs", "bits"), [(64, 512, 4), (40, 192, 4), (24, 96, 8)])
def test_products_of_blocks_and_their_graph(outputs: int, inputs: int, bits: int, count: int) -> None:
    assert multiplies_int4(torch.device("cuda"), BFLOAT16)
    weight, rows = torch.randn(outputs, inputs).to(BFLOAT16), torch.randn(count, inputs).to(BFLOAT16)
    expected = rows.float() @ quantise(weight, bits).dequantise(torch.float32).T
    layer, given = Int4Linear.of_weight(weight.to("cuda"), bits, None), rows.to("cuda")
    with torch.inference_mode():
        eager = layer(given).cpu().float()
        assert float((eager - expected).norm() / expected.norm()) < 8e-3
        static = torch.zeros_like(given)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            layer(static)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = layer(static)
        static.copy_(given)
        graph.replay()
        # A library may choose another kernel during capture.
        assert float((captured.cpu().float() - eager).norm() / eager.norm()) < 8e-3


@pytest.mark.parametrize("count", [1, 3, 65])
def test_products_of_fp8_weights(count: int) -> None:
    """Below compute capability 8.9 the GPU refuses them, and the engine does not ask."""
    codes, scale = (torch.randn(48, 64) * 50).to(torch.float8_e4m3fn), torch.rand(48, 1) / 50
    rows = torch.randn(count, 64).to(BFLOAT16)
    layer = Fp8Linear(codes.to("cuda"), scale.to("cuda"), torch.ones(48).to("cuda", BFLOAT16))
    if not multiplies_fp8(torch.device("cuda"), BFLOAT16):
        with pytest.raises(RuntimeError, match="compute capability"):
            layer(rows.to("cuda"))
        return
    expected = rows.float() @ (codes.float() * scale).T + 1
    found = layer(rows.to("cuda")).cpu().float()
    assert float((found - expected).norm() / expected.norm()) < 0.04
