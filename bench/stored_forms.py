"""Dense weights rounded to nearest into the forms that checkpoints are stored in; ggml's by its own quantiser."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from handler.linears.quantised_weight import QuantisedWeight

Round = Callable[[Tensor], Tensor]

_E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
_LARGEST_E4M3, _LARGEST_E2M1 = 448.0, 6.0
# ggml.h. What llama.cpp takes instead for rows that are no multiple of 256 (llama-quant.cpp).
_TYPES = {"Q4_0": 2, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14}
_TYPES |= {"IQ4_NL": 20}
_SHORT_ROWS = {"Q2_K": "IQ4_NL", "Q3_K": "IQ4_NL", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_SUPER_BLOCK = 256


def _symmetric(bits: int, group: int) -> Round:
    """Codes around their middle, as GPTQ's; `group` 0 is a whole row."""

    def rounded(weight: Tensor) -> Tensor:
        groups = weight.unflatten(1, (-1, group or weight.shape[1]))
        scale = 2 * groups.abs().amax(-1) / (2**bits - 1)
        middle = 2 ** (bits - 1)
        codes = ((groups / scale[..., None]).round() + middle).clamp(0, 2**bits - 1).to(torch.uint8)
        return QuantisedWeight(bits, codes.flatten(1), scale, zero=float(middle)).dequantise(torch.float32)

    return rounded


def _with_zero_points(bits: int, group: int) -> Round:
    """From least to greatest weight with a whole zero point, as AWQ's."""

    def rounded(weight: Tensor) -> Tensor:
        groups = weight.unflatten(1, (-1, group))
        least, greatest = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
        scale = (greatest - least) / (2**bits - 1)
        zero = (-least / scale).round()
        codes = ((groups / scale[..., None]).round() + zero[..., None]).clamp(0, 2**bits - 1).to(torch.uint8)
        return QuantisedWeight(bits, codes.flatten(1), scale, -zero * scale).dequantise(torch.float32)

    return rounded


def _fp8(scale: Callable[[Tensor], Tensor]) -> Round:
    """e4m3; `scale` gives numbers that are spread over the weight."""

    def rounded(weight: Tensor) -> Tensor:
        scales = scale(weight) / _LARGEST_E4M3
        return (weight / scales).to(torch.float8_e4m3fn).float() * scales

    return rounded


def _of_rows(weight: Tensor) -> Tensor:
    return weight.abs().amax(-1, keepdim=True)


def _of_blocks(weight: Tensor, size: int = 128) -> Tensor:
    """The largest of each block of 128 x 128; the last ones may be smaller."""
    rows, columns = weight.shape
    padded = torch.nn.functional.pad(weight.abs(), (0, -columns % size, 0, -rows % size))
    largest = padded.unflatten(1, (-1, size)).unflatten(0, (-1, size)).amax((1, 3))
    return largest.repeat_interleave(size, 0).repeat_interleave(size, 1)[:rows, :columns]


def _e2m1(groups: Tensor, scale: Tensor) -> Tensor:
    values = groups / scale
    nearest = (values.abs()[..., None] - _E2M1).abs().argmin(-1)
    return (_E2M1[nearest] * values.sign() * scale).flatten(1)


def _mxfp4(weight: Tensor) -> Tensor:
    """32 weights share a power of two (OCP MX 1.0)."""
    groups = weight.unflatten(1, (-1, 32))
    exponent = groups.abs().amax(-1, keepdim=True).log2().floor() - 2
    return _e2m1(groups, exponent.exp2())


def _nvfp4(weight: Tensor) -> Tensor:
    """16 weights share an e4m3 scale, all a float32."""
    groups = weight.unflatten(1, (-1, 16))
    whole = weight.abs().amax() / (_LARGEST_E4M3 * _LARGEST_E2M1)
    scale = (groups.abs().amax(-1, keepdim=True) / _LARGEST_E2M1 / whole).to(torch.float8_e4m3fn).float() * whole
    return _e2m1(groups, scale)


FORMS: dict[str, Round] = {
    "8 bits, a scale an output": _symmetric(8, 0),
    "8 bits (fp8), a scale an output": _fp8(_of_rows),
    "8 bits (fp8), blocks of 128 x 128": _fp8(_of_blocks),
    "4 bits, groups of 32, zero points": _with_zero_points(4, 32),
    "4 bits, groups of 32": _symmetric(4, 32),
    "4 bits, groups of 64, zero points": _with_zero_points(4, 64),
    "4 bits, groups of 64": _symmetric(4, 64),
    "4 bits (e2m1), groups of 16, nvfp4": _nvfp4,
    "4 bits (e2m1), groups of 32, mxfp4": _mxfp4,
    "3 bits, groups of 64": _symmetric(3, 64),
}


def ggml_forms(library: Path) -> dict[str, Round]:
    """ggml's block types, by `ggml_quantize_chunk` of its library `libggml-base.so`."""
    found = ctypes.CDLL(str(library)).ggml_quantize_chunk
    found.restype = ctypes.c_size_t
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    found.argtypes = [ctypes.c_int, pointer, pointer, count, count, count, pointer]
    names = ("Q8_0", "Q6_K", "Q5_K", "Q5_0", "Q4_K", "Q4_0", "IQ4_NL", "Q3_K", "Q2_K")
    return {_label(name): _ggml(found, name) for name in names}


def _label(name: str) -> str:
    return f"GGUF {name}" + (f", {_SHORT_ROWS[name]} in short rows" if name in _SHORT_ROWS else "")


def _ggml(quantise: Callable[..., int], name: str) -> Round:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quant_shape_to_byte_shape

    def rounded(weight: Tensor) -> Tensor:
        taken = _SHORT_ROWS.get(name, name) if weight.shape[1] % _SUPER_BLOCK else name
        kind = GGMLQuantizationType[taken]
        given = weight.contiguous()
        packed = torch.empty(quant_shape_to_byte_shape(tuple(weight.shape), kind), dtype=torch.uint8)
        rows, columns = weight.shape
        quantise(_TYPES[taken], given.data_ptr(), packed.data_ptr(), 0, rows, columns, None)
        return torch.from_numpy(dequantize(packed.numpy(), kind))

    return rounded
