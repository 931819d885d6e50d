"""Codes packed by the kernel, against the layout as `packed_codes` describes it, number by number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from handler.kernels.product.block_layout import packed_codes

pytestmark = pytest.mark.usefixtures("several_threads")


def described(codes: np.ndarray, bits: int) -> np.ndarray:
    """int32 `[N / 16, K / 32, bits, 16]`, built up one input at a time."""
    num_rows, num_columns = codes.shape
    out = np.zeros((num_rows // 16, num_columns // 32, bits, 16), np.uint32)
    numbers = codes.astype(np.uint32)
    for row in range(num_rows):
        for column in range(num_columns):
            words = out[row // 16, column // 32, :, row % 16]
            for first, width, part in ((0, 4, numbers[row, column] & 15), (4, bits - 4, numbers[row, column] >> 4)):
                if width:
                    each = 32 // width
                    word, place = first + column % 32 // each, column % 32 % each
                    words[word] |= part << np.uint32(width * (place // 2) + 16 * (place % 2))
    return out.view(np.int32)


@pytest.mark.parametrize("bits", [4, 5, 6])
@pytest.mark.parametrize(("num_rows", "num_columns"), [(16, 32), (64, 96), (272, 256)])
def test_each_code_is_where_the_layout_says(bits: int, num_rows: int, num_columns: int) -> None:
    codes = torch.randint(0, 2**bits, (num_rows, num_columns), dtype=torch.uint8)
    found = packed_codes(codes, bits)
    assert torch.equal(found, torch.from_numpy(described(codes.numpy(), bits)))
    # Of memory that another thing lies between.
    wide = torch.cat([codes, codes], 1)
    assert torch.equal(packed_codes(wide[:, :num_columns], bits), found)
