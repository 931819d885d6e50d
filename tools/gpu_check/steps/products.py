"""One product by a weight of an 8B model, in every form that torch or bitsandbytes computes here, by rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tools.gpu_check import expected
from tools.gpu_check.lines import Line, fact
from tools.gpu_check.setting import Setting

Product = Callable[[Tensor], Tensor]
_ROWS = (1, 8, 32, 64, 128)
_GROUP, _TILES = 128, 8


def products(setting: Setting) -> Iterator[Line]:
    """Where a packed form stops paying: compare the lines of one number of rows."""
    outputs, inputs = setting.pick(14_336, 64), setting.pick(4096, 128)
    weight = torch.randn(outputs, inputs, device="cuda").bfloat16() * 0.02
    forms = {"bfloat16": _dense, "int4": _int4, "fp8": _fp8} | ({} if setting.tiny else {"nf4": _nf4})
    for form, make in forms.items():
        try:
            product = make(weight)
            for rows in _ROWS[:2] if setting.tiny else _ROWS:
                x = torch.randn(rows, inputs, device="cuda").bfloat16()
                seconds = setting.seconds_of(lambda: product(x), setting.pick(100, 2))  # noqa: B023
                gap = float((product(x) - x @ weight.t()).float().abs().mean() / (x @ weight.t()).float().abs().mean())
                bound = expected.PRODUCT_US[form] if rows == 1 else None
                yield setting.speed(form, 1e6 * seconds, "us", bound, rows=rows, off=round(gap, 4))
        except Exception as exc:  # noqa: BLE001 - a device may lack a form
            yield fact(f"{form}: refused", f"{type(exc).__name__}: {exc}"[:200])


def _dense(weight: Tensor) -> Product:
    return lambda x: torch.nn.functional.linear(x, weight)


def _int4(weight: Tensor) -> Product:
    """Codes 0 to 15, w = (code - 8) x scale: torch's own layout."""
    groups = weight.float().unflatten(-1, (-1, _GROUP))
    scales = groups.abs().amax(-1).clamp(min=1e-8) / 7
    codes = ((groups / scales[..., None]).round().clamp(-8, 7) + 8).flatten(1).to(torch.uint8)
    packed = torch.ops.aten._convert_weight_to_int4pack((codes[:, ::2] << 4) | codes[:, 1::2], _TILES)
    both = torch.stack([scales, torch.zeros_like(scales)], -1).transpose(0, 1).contiguous().bfloat16()
    return lambda x: torch.ops.aten._weight_int4pack_mm(x, packed, _GROUP, both)


def _fp8(weight: Tensor) -> Product:
    """A scale for each output and each row; compute capability 8.9 and above."""
    kind, most = torch.float8_e4m3fn, torch.finfo(torch.float8_e4m3fn).max
    scale = weight.float().abs().amax(-1, keepdim=True) / most
    codes = (weight.float() / scale).to(kind).t()
    scale = scale.t().contiguous()

    def product(x: Tensor) -> Tensor:
        own = x.float().abs().amax(-1, keepdim=True) / most
        found: Tensor = torch._scaled_mm((x.float() / own).to(kind), codes, own, scale, out_dtype=torch.bfloat16)
        return found

    return product


def _nf4(weight: Tensor) -> Product:
    import bitsandbytes.functional
    from bitsandbytes.autograd._functions import matmul_4bit

    codes, state = bitsandbytes.functional.quantize_4bit(weight, quant_type="nf4")
    return lambda x: matmul_4bit(x, codes.t(), state)
