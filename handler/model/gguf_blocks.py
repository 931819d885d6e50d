"""Reads the quantised matrices of a GGUF file, unchanged, for the linear layers that use them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from handler.linears.packed_linear import fits
from handler.linears.quantised_weight import QuantisedWeight
from handler.linears.weight_blocks import BLOCK

logger = logging.getLogger(__name__)


def read_blocks(reader: Any, model: nn.Module) -> dict[str, QuantisedWeight]:
    """Blocks for the nn.Linear modules of `model`, by module name, from an open `gguf.GGUFReader`.

    `model` holds the same weights, dequantised by transformers. A matrix is used only if its blocks, dequantised, equal
    the module's weights exactly; others (k-quants, fused experts) stay dense.
    """
    tensors = {str(tensor.name): tensor for tensor in reader.tensors}
    names = _tensor_names(reader, model)
    found: dict[str, QuantisedWeight] = {}
    for name, module in model.named_modules():
        tensor = tensors.get(names.get(name, ""))
        if tensor is None or not isinstance(module, nn.Linear) or not fits(module.out_features, module.in_features):
            continue
        blocks = _in_order_of(module.weight.detach(), _decode(tensor), model.config)
        if blocks is not None:
            found[name] = blocks
    logger.info("%d of %d quantised matrices of the GGUF file kept as they are", len(found), len(tensors))
    return found


def _tensor_names(reader: Any, model: Any) -> dict[str, str]:
    """GGUF's tensor name by module name, from gguf's own table; tied output weights are the embedding's."""
    import gguf

    field = reader.fields.get("general.architecture")
    architectures = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
    architecture = architectures.get("" if field is None else str(field.contents()))
    if architecture is None:
        return {}
    num_layers = int(model.config.get_text_config().num_hidden_layers)
    table = gguf.get_tensor_name_map(architecture, num_layers)
    names = {name: table.get_name(name) for name, _ in model.named_modules()}
    present = {str(tensor.name) for tensor in reader.tensors}
    tied = "token_embd.weight" if "output.weight" not in present else "output.weight"
    return {name: tied if found == "output" else f"{found}.weight" for name, found in names.items() if found}


def _decode(tensor: Any) -> QuantisedWeight | None:
    """A tensor's blocks; None for other types. Layouts: block_q4_0, block_q4_1 and block_q8_0 in ggml-common.h."""
    kind = str(tensor.tensor_type.name)
    if kind not in {"Q4_0", "Q4_1", "Q8_0"}:
        return None
    num_columns, num_rows = (int(size) for size in tensor.shape)
    raw = torch.from_numpy(tensor.data.copy()).view(num_rows, num_columns // BLOCK, -1)
    scale = _halves(raw[..., :2])
    if kind == "Q8_0":
        codes = (raw[..., 2:].view(torch.int8).to(torch.int16) + 128).to(torch.uint8)
        return QuantisedWeight(8, codes.view(num_rows, num_columns), scale, -128 * scale)
    first = 2 if kind == "Q4_0" else 4
    minimum = -8 * scale if kind == "Q4_0" else _halves(raw[..., 2:4])
    # The low nibbles of the sixteen bytes are the block's first sixteen weights, the high nibbles the others.
    codes = torch.cat([raw[..., first:] & 15, raw[..., first:] >> 4], -1)
    return QuantisedWeight(4, codes.view(num_rows, num_columns), scale, minimum)


def _halves(raw: Tensor) -> Tensor:
    return raw.contiguous().view(torch.float16)[..., 0].float()


def _in_order_of(weight: Tensor, blocks: QuantisedWeight | None, config: Any) -> QuantisedWeight | None:
    """The blocks with their rows in the order of `weight`; None if no known order equals it bit for bit."""
    if blocks is None or blocks.codes.shape != weight.shape:
        return None
    for order in _row_orders(weight.shape[0], config):
        candidate = blocks
        if order is not None:
            candidate = blocks.rows(order)
        if torch.equal(candidate.dequantise(weight.dtype), weight):
            return candidate
    return None


def _row_orders(num_rows: int, config: Any) -> Iterator[Tensor | None]:
    """Row permutations to try: none, then GGUF's rotary pairs to halves.

    The Llama conversion of llama.cpp permutes query and key that way.
    """
    yield None
    text = config.get_text_config()
    num_heads = getattr(text, "num_attention_heads", 0) or 0
    for heads in dict.fromkeys((num_heads, getattr(text, "num_key_value_heads", None) or num_heads)):
        if heads and num_rows % (2 * heads) == 0:
            yield torch.arange(num_rows).view(heads, -1, 2).transpose(1, 2).flatten()
