"""`python -m bench.rotated_perplexity`: forms of 4 and 8 bits on weights that were never quantised that way.

The bundled model is stored in 4-bit blocks, which would favour the form that has the same blocks. A random rotation of
its hidden states leaves what it computes as it is, and no weight where it was. Output layers stay as they are.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from bench import stored_forms
from bench.perplexity import TEXT, WINDOW, losses
from handler.linears.weight_blocks import BLOCK, quantise


def main() -> int:
    """Print perplexities, one line for each rotation and form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rotations", type=int, default=2)
    parser.add_argument("--stored", action="store_true", help="forms of stored checkpoints, not those made at load")
    parser.add_argument("--ggml", type=Path, help="libggml-base.so of llama.cpp: with --stored, its block types too")
    arguments = parser.parse_args()
    rotations = arguments.rotations
    forms = stored_forms.FORMS if arguments.stored else _FORMS
    if arguments.ggml:
        forms = forms | stored_forms.ggml_forms(arguments.ggml)
    model, ids = _bundled()
    print(f"unrotated: {_perplexity(model, ids):.2f}", flush=True)
    for seed in range(rotations):
        rotated = _rotated(model, seed)
        print(f"rotation {seed}, none: {_perplexity(rotated, ids):.2f}", flush=True)
        for name, form in forms.items():
            print(f"rotation {seed}, {name}: {_perplexity(_stored(rotated, form), ids):.2f}", flush=True)
    return 0


def _bundled() -> tuple[Any, list[int]]:
    from handler.model.gguf_model import bundled_gguf, converted
    from handler.model.loader import load
    from handler.seam.config import EngineConfig, Quantize

    cache = os.environ.get("CACHE_DIR", tempfile.gettempdir())
    directory = converted(bundled_gguf(), Path(cache), lambda *_: None)
    config = EngineConfig(quantize=Quantize.NONE, device="cpu", dtype="float32", cache_dir=cache)
    ids = Tokenizer.from_file(str(directory / "tokenizer.json")).encode(TEXT.read_text()).ids
    return load(config, directory, lambda *_: None).model, ids


@torch.inference_mode()
def _perplexity(model: Any, ids: list[int]) -> float:
    found = [losses(model, ids[i : i + WINDOW]) for i in range(0, len(ids) - 1, WINDOW)]
    return math.exp(float(torch.cat(found).mean()))


@torch.no_grad()
def _rotated(model: Any, seed: int) -> Any:
    """A Llama with its hidden states turned by a random orthogonal matrix; norms become part of what follows them."""
    model = copy.deepcopy(model)
    size = model.config.hidden_size
    noise = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    turn = torch.linalg.qr(noise).Q

    def read(linear: nn.Linear, norm: Any) -> None:
        linear.weight = nn.Parameter(((linear.weight * norm.weight).double() @ turn).float())

    embedding = model.model.embed_tokens
    read(model.lm_head, model.model.norm)
    embedding.weight = nn.Parameter((embedding.weight.double() @ turn).float())
    norms = [model.model.norm]
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        norms += [layer.input_layernorm, layer.post_attention_layernorm]
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj):
            read(linear, layer.input_layernorm)
        for linear in (mlp.gate_proj, mlp.up_proj):
            read(linear, layer.post_attention_layernorm)
        for linear in (attention.o_proj, mlp.down_proj):
            linear.weight = nn.Parameter((turn.T @ linear.weight.double()).float())
    for norm in norms:
        norm.weight.fill_(1)
    return model


@torch.no_grad()
def _stored(model: Any, form: Callable[[Tensor], Tensor]) -> Any:
    model = copy.deepcopy(model)
    for layer in model.model.layers.modules():
        if isinstance(layer, nn.Linear):
            layer.weight = nn.Parameter(form(layer.weight.detach()))
    return model


def _blocks_on_gpu(bits: int) -> Callable[[Tensor], Tensor]:
    """What `Int4Linear` multiplies by: scales, zeros and then each nibble's weights in bfloat16."""
    from handler.linears.packed_linear import as_nibbles

    def form(weight: Tensor) -> Tensor:
        codes, scale, zero = as_nibbles(quantise(weight, bits))
        blocks = codes.view(weight.shape[0], -1, BLOCK).double() - 8
        rounded = (blocks * scale.bfloat16().double()[..., None] + zero.bfloat16().double()[..., None]).bfloat16()
        return rounded.float().view(weight.shape[0], -1, weight.shape[1]).sum(1)

    return form


def _nf4(weight: Tensor) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    dense: Tensor = dequantize_4bit(*quantize_4bit(weight.contiguous(), blocksize=64, quant_type="nf4"))
    return dense


_FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "int4 on CPU": lambda weight: quantise(weight, 4).dequantise(torch.float32),
    "int4 on CUDA": _blocks_on_gpu(4),
    "bitsandbytes-nf4": _nf4,
    "int8 on CUDA": _blocks_on_gpu(8),
}


if __name__ == "__main__":
    sys.exit(main())
