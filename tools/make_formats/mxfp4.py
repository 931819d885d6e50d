"""MXFP4 experts of gpt-oss: blocks and scales by torch, as published; dense weights by transformers' own function."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from transformers.integrations.mxfp4 import FP4_VALUES, convert_moe_packed_tensors

from tools.make_formats import base as dense_model
from tools.make_formats.expected import write_expected_of_files

LIBRARIES = ()

_BLOCK = 32
_SIZES = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 32, "layer_types": ["full_attention"]}


def _packed(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks `[E, N, K / 32, 16]` and scales `[E, N, K / 32]` of experts `[E, K, N]`, as transformers keeps them."""
    groups = weight.float().transpose(1, 2).unflatten(-1, (-1, _BLOCK))
    exponent = torch.floor(torch.log2(groups.abs().amax(-1))) - 2
    values = torch.tensor(FP4_VALUES)
    codes = (groups * torch.exp2(-exponent)[..., None])[..., None].sub(values).abs().argmin(-1).to(torch.uint8)
    return codes[..., ::2] | (codes[..., 1::2] << 4), (exponent + 127).to(torch.uint8)


def _write(sizes: dict[str, int], _: Path, target: Path) -> None:
    with TemporaryDirectory() as temporary:
        base = dense_model.save(Path(temporary), "gpt_oss", **_SIZES, **sizes)
        state, dense, stored = dense_model.weights(base), {}, {}
        for name in [name for name in state if name.endswith("_proj") and "experts" in name]:
            blocks, scales = _packed(state.pop(name))
            state |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
            stored[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
            dense[name] = stored[name].transpose(1, 2)
        form = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
        dense_model.write_checkpoint(base, target, state, form)
        write_expected_of_files(base, target, dense, stored=stored)


# As in gpt-oss, the matrix of the down projection is square, so its shape does not tell which side is which.
WRITERS = {"mxfp4": lambda base, target: _write({"hidden_size": 64, "intermediate_size": 64}, base, target)}
