"""`BlockForm`: how a block of 4- to 8-bit weights is stored; one kernel is compiled for each form."""

from __future__ import annotations

from typing import NamedTuple

# Inputs that a kernel takes at a time.
BLOCK = 32
# What a code stands for: itself or an entry of a table.
CODES, TABLE = range(2)
# `BlockForm.zero` where each scale has a minimum beside it.
MINIMUM = 255


class BlockForm(NamedTuple):
    """`w = scale * (value(code) - zero)`, or `scale * value(code) + minimum`.

    `bits` are 4, 5, 6 or 8; 16, 32, 64 or 128 `inputs` share a scale; `zero` is from 0 to 128, or `MINIMUM`; `values`
    is `CODES` or `TABLE`. A table has 16 values, or with 8 bits 128 and then their negatives.
    """

    bits: int
    inputs: int = BLOCK
    zero: int = MINIMUM
    values: int = CODES

    @property
    def number(self) -> int:
        """All of it as one integer, which a kernel can capture."""
        return self.bits | self.inputs << 8 | self.zero << 16 | self.values << 24

    @classmethod
    def of_number(cls, number: int) -> BlockForm:
        """The inverse of `number`."""
        return cls(number & 255, number >> 8 & 255, number >> 16 & 255, number >> 24)

    @property
    def parts(self) -> int:
        """Scales of an output in a block; 1 where blocks share one."""
        return max(1, BLOCK // self.inputs)

    @property
    def span(self) -> int:
        """Blocks that share a scale."""
        return max(1, self.inputs // BLOCK)

    @property
    def words(self) -> int:
        """Vectors of 16 32-bit numbers that hold the codes of a block of 16 outputs."""
        return self.bits

    @property
    def numbers(self) -> int:
        """float16 numbers of an output in `span` blocks: scales, and minima if there are any."""
        return self.parts * (2 if self.zero == MINIMUM else 1)
