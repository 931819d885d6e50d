"""Integer codes as libraries store them: packed in words, with a zero point beside each scale."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from handler.linears.quantised_weight import QuantisedWeight


def unpack(words: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` codes of each row of `words`: uint8 `[..., count]` of integers `[..., W]`.

    Codes follow each other from the lowest bit of the first word on; one may begin in a word and end in the next.
    """
    octets = words.contiguous().view(torch.uint8)
    if 8 % bits:
        # Eight codes lie in `bits` octets.
        parts = pad(octets, (0, -octets.shape[-1] % bits)).unflatten(-1, (-1, bits))
        octets = torch.zeros(parts.shape[:-1], dtype=torch.int64)
        for i in range(bits):
            octets |= parts[..., i].long() << 8 * i
    num = 8 if 8 % bits else 8 // bits
    codes = torch.empty((*octets.shape, num), dtype=torch.uint8)
    for i in range(num):
        codes[..., i] = (octets >> bits * i) & (2**bits - 1)
    return codes.flatten(-2)[..., :count]


def with_zero_points(
    bits: int, codes: Tensor, scale: Tensor, zeros: Tensor, order: Tensor | None = None
) -> QuantisedWeight:
    """`w = scale * (code - zero)`; `codes` uint8 `[N, K]`, `scale` and `zeros` `[N, G]` of any number type.

    Zero points that are all the same, as of symmetric weights, take no memory.
    """
    codes, scale, zeros = codes.contiguous(), scale.float().contiguous(), zeros.float()
    first = float(zeros.flatten()[0])
    if bool((zeros == first).all()):
        return QuantisedWeight(bits, codes, scale, zero=first, order=order)
    return QuantisedWeight(bits, codes, scale, minimum=-(scale * zeros), order=order)
