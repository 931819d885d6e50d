"""Integer codes as libraries store them: packed in words, with a zero point beside each scale."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from handler.linears.quantised_weight import QuantisedWeight

# Rows unpacked at a time, so that they stay in the processor's cache.
_PIECE = 1 << 15
_OF_OCTETS = {1: torch.int8, 2: torch.int16, 4: torch.int32}


def unpack(words: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` codes of each row of `words`: uint8 `[..., count]` of integers `[..., W]`.

    Codes follow each other from the lowest bit of the first word on; one may begin in a word and end in the next.
    """
    octets = words.contiguous().view(torch.uint8)
    if bits == 8:
        return octets[..., :count]
    # Eight codes lie in `bits` octets, and are eight octets afterwards.
    if octets.shape[-1] % bits:
        octets = pad(octets, (0, -octets.shape[-1] % bits))
    packed = octets.view(-1, bits)
    codes = torch.empty(len(packed), dtype=torch.int64)
    for first in range(0, len(packed), _PIECE):
        _spread(packed[first : first + _PIECE], bits, codes[first : first + _PIECE])
    return codes.view(torch.uint8).view(*octets.shape[:-1], -1)[..., :count]


def _spread(packed: Tensor, bits: int, codes: Tensor) -> None:
    """Write the codes of each row of `packed`, uint8 `[R, bits]`, into the octets of `codes`, int64 `[R]`."""
    if bits in _OF_OCTETS:
        codes.copy_(packed.view(_OF_OCTETS[bits]).view(-1)).bitwise_and_((1 << 8 * bits) - 1)
    else:
        codes.zero_()
        for i in range(bits):
            codes |= packed[:, i].long() << 8 * i
    # The upper half of the codes goes to the upper half of the room, then the upper half of each half.
    for room in (32, 16, 8):
        width = room * bits // 8
        lower = codes & sum((1 << width) - 1 << place for place in range(0, 64, 2 * room))
        codes ^= lower
        codes <<= room - width
        codes |= lower


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
