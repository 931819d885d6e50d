"""The one table of how weights lie in memory: what HF_MODEL_QUANTIZE makes of dense ones, by GPU.

Stored forms are in `stored_forms.py`. Whoever makes a form hold other bytes changes this table; the engine's placement
and the deploy helper's plan follow. Sources: transformers 5.23 (its quantizers) and bitsandbytes 0.50
(`quantize_4bit`, `_gemm_4bit_use_custom_cuda`).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from model_memory.weight_counts import WeightCounts

# From this compute capability (major * 10 + minor) on, an own layer multiplies fp8 weights with one scale a tensor.
FP8_FROM = 89
# From this one on, int4 and int8 are served on CUDA, in bfloat16.
INT4_FROM = 80
# torch's int4 product reads its weights once for each 16 rows; a step is judged at 64, as bitsandbytes' is.
INT4_READS = 4
# What `auto` may take on CUDA, the least lossy first; a form that a GPU refuses is left out there.
AUTO_FORMS = ("none", "int4", "bitsandbytes-nf4")

_INSTEAD = "take bitsandbytes or bitsandbytes-nf4 instead"


class Product(enum.StrEnum):
    """What multiplies by the linear layers of a stored form."""

    DENSE = "dequantised at load"
    KERNELS = "as stored, by our kernels"
    INT4 = "as stored, by torch's int4 product"
    FP8 = "as stored, by torch's fp8 product"
    BITSANDBYTES = "as stored, by bitsandbytes"


@dataclass(frozen=True, slots=True)
class Form:
    """How weights are held once loaded: bytes for each weight with its scales, None for the model's own dtype.

    `experts` are parameters of three dimensions that transformers' interface for experts multiplies. `output` is an
    output layer that is not tied to the embeddings; these, norms and routers keep the dtype in every form. `step_bytes`
    is what one weight of a linear layer, or of quantised experts, moves in a decode step. `refused` says why the form
    does not load here and what to do instead, "" if it loads. `is_stored` forms keep the size of their files. `product`
    is None for dense checkpoints and refused forms.
    """

    name: str
    linears: float | None = None
    experts: float | None = None
    output: float | None = None
    step_bytes: float | None = None
    refused: str = ""
    is_stored: bool = False
    product: Product | None = None

    def num_bytes(self, counts: WeightCounts, itemsize: int) -> int:
        """Bytes of all weights in memory; `itemsize` is the bytes of one number of the model's dtype."""
        linears, output = self.linears or itemsize, self.output or itemsize
        experts = itemsize if counts.keeps_experts else self.experts or itemsize
        dense = (counts.embeddings + counts.other) * itemsize
        return int(counts.linears * linears + counts.experts * experts + counts.output * output) + dense

    def moved_bytes(self, counts: WeightCounts, itemsize: int) -> int:
        """Bytes that a decode step of many sequences moves for the weights; input embeddings are counted too."""
        moved = self.step_bytes or self.linears or itemsize
        more = counts.linears * (moved - (self.linears or itemsize))
        if self.experts and not counts.keeps_experts:
            more += counts.experts * (moved - self.experts)
        return self.num_bytes(counts, itemsize) + int(more)


def quantized(quantize: str, capability: int | None, *, in_bfloat16: bool = True) -> Form:
    """The form that HF_MODEL_QUANTIZE makes of a dense checkpoint; `capability` is None on CPU.

    bitsandbytes replaces linear layers only, blocks take experts and the output layer too. Names that belong to stored
    checkpoints, and `auto`, stay dense. `in_bfloat16` says that a GPU computes in bfloat16.
    """
    if quantize in ("bitsandbytes-nf4", "bitsandbytes-fp4"):
        # 4 bits, and a float32 for each 64 weights.
        return Form(quantize, 0.5 + 4 / 64, step_bytes=four_bit_step(capability))
    has_blocks = capability is None or (capability >= INT4_FROM and in_bfloat16)
    if quantize == "bitsandbytes" or (quantize == "eetq" and not has_blocks):
        return Form(quantize, 1.0)  # and a float32 for each row
    if quantize in ("int8", "int4", "eetq"):
        four, eight = 0.5 + 4 / 32, _eight_bits(on_cpu=capability is None)
        each = four if quantize == "int4" else eight
        refused = "" if has_blocks else f"{quantize} needs compute capability 8.0 and bfloat16; {_INSTEAD}"
        return Form(
            quantize, each, each, output=eight, step_bytes=INT4_READS * each if capability else None, refused=refused
        )
    return Form("none")


def _eight_bits(*, on_cpu: bool) -> float:
    """Bytes for each weight in blocks of 8 bits.

    32 weights share a scale and a minimum of two bytes; on CUDA they are two nibbles each, and each nibble has both.
    """
    return 1 + 4 / 32 * (1 if on_cpu else 2)


def auto_forms(capability: int | None, *, in_bfloat16: bool = True) -> tuple[Form, ...]:
    """What `auto` may take of a dense checkpoint on this compute capability, the least lossy first."""
    forms = (quantized(name, capability, in_bfloat16=in_bfloat16) for name in AUTO_FORMS)
    return tuple(form for form in forms if not form.refused)


def four_bit_step(capability: int | None) -> float:
    """Bytes moved for a weight of bitsandbytes' 4 bits in a step of up to 64 rows.

    bitsandbytes makes part of the matrices dense first: it reads 4 bits, writes 16 and reads 16. The share by GPU is
    what its own rule (`_gemm_4bit_use_custom_cuda`) says for the layers of models from 8 to 70 billion weights.
    """
    share = _DENSE_FIRST.get(capability or 0, 1.0)
    return 0.5 + 4 / 64 + share * 4


_DENSE_FIRST = {75: 0.05, 80: 0.46, 86: 0.05, 89: 0.46, 90: 1.0, 100: 1.0, 103: 1.0, 120: 0.46}
