"""How stored weights are held once loaded, and what multiplies them: by the codes of the checkpoint and the device.

Whoever makes another form load, or a kernel take one, changes this table or `stored_codes.py`; placement, the deploy
helper's plan, the refusal at start and docs/quantisation.md follow. Which layer a weight gets is decided in
`handler/linears/choice.py` (CPU) and `handler/linears/quantised_linear.py` (CUDA).
"""

from __future__ import annotations

from model_memory.forms import FP8_FROM, INT4_FROM, INT4_READS, Form, Product, four_bit_step
from model_memory.stored_codes import Codes, Settings, Values, method_of, refusal, stored_codes, stored_name

# Groups that torch's int4 product takes; a larger group repeats its scale for each of them.
_INT4_GROUPS = (256, 128, 64, 32)
# Weights that share a scale, of two bytes, and a minimum in our CPU kernels.
_CPU_BLOCKS = (32, 16)


def stored(values: Settings, capability: int | None, *, in_bfloat16: bool = True) -> Form:
    """The form of a checkpoint with this `quantization_config`, whatever HF_MODEL_QUANTIZE says.

    `capability` is None on CPU; `in_bfloat16` says that the device computes in bfloat16. Experts, parameters of three
    dimensions, are held as linear layers are, but never by the fp8 product.
    """
    name, method = stored_name(values), method_of(values)
    if refused := refusal(values):
        return Form(name, refused=refused)
    if capability is not None and is_left_to_bitsandbytes(values, on_cuda=True):
        return _by_bitsandbytes(name, values, capability)
    held = [held_as(codes, capability, in_bfloat16=in_bfloat16) for codes in stored_codes(values)]
    if not held or any(each is None for each, _ in held):
        return Form(name, product=Product.DENSE)
    linears, product = max((each or 0.0, product) for each, product in held)
    step = INT4_READS * linears if product is Product.INT4 else None
    if method == "mxfp4":  # whose linear layers are dense in the files too
        return Form(name, experts=linears, step_bytes=step, product=product)
    experts = None if product is Product.FP8 else linears
    return Form(name, linears, experts, step_bytes=step, product=product)


def is_left_to_bitsandbytes(values: Settings, *, on_cuda: bool) -> bool:
    """True if bitsandbytes' own layers multiply the form: no kernel of ours takes its tables of values on CUDA."""
    return on_cuda and method_of(values) == "bitsandbytes"


def held_as(codes: Codes, capability: int | None, *, in_bfloat16: bool = True) -> tuple[float | None, Product]:
    """Bytes of a weight in memory, None for the model's dtype, and what multiplies it."""
    found = None
    if in_bfloat16:
        found = _on_cpu(codes) if capability is None else _on_cuda(codes, capability)
    return found or (None, Product.DENSE)


def _on_cpu(codes: Codes) -> tuple[float, Product] | None:
    """At most, which is with minima and on a matrix unit (AMX); it takes 4 or 8 bits and blocks of 32 integers."""
    if codes.group % _CPU_BLOCKS[-1] or (codes.values is Values.TABLE and codes.bits > 4):
        return None
    block = next(size for size in _CPU_BLOCKS if codes.group % size == 0)
    if codes.values is not Values.INTEGERS:
        return codes.bits / 8 + 2 / block, Product.KERNELS
    bits = max(4, codes.bits) if codes.bits <= 4 or (block == _CPU_BLOCKS[-1] and codes.bits != 7) else 8
    return bits / 8 + 4 / block, Product.KERNELS


def _on_cuda(codes: Codes, capability: int) -> tuple[float, Product] | None:
    if codes.values is Values.FLOAT8:
        return (1.0, Product.FP8) if capability >= FP8_FROM and not codes.group else None
    if capability < INT4_FROM or codes.values is Values.TABLE or codes.group % _INT4_GROUPS[-1]:
        return None
    size = next(size for size in _INT4_GROUPS if codes.group % size == 0)
    # e2m1 as multiples of a half takes more than four bits, and more than four are two nibbles.
    nibbles = 1 if codes.bits <= 4 and codes.values is Values.INTEGERS else 2
    return nibbles * (0.5 + 4 / size), Product.INT4


def _by_bitsandbytes(name: str, values: Settings, capability: int) -> Form:
    if name == "bitsandbytes":
        return Form(name, 1.0, is_stored=True, product=Product.BITSANDBYTES)
    scales = 1 / 64 + 4 / (64 * 256) if values.get("bnb_4bit_use_double_quant") else 4 / 64
    step = four_bit_step(capability)
    return Form(name, 0.5 + scales, step_bytes=step, is_stored=True, product=Product.BITSANDBYTES)


def is_dequantised(form: Form) -> bool:
    """True if a stored form is made dense at load."""
    return form.product is Product.DENSE
