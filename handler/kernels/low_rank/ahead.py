"""Fetches what adapters add soon while a product is multiplied, which waits for arithmetic, not for memory.

Each row with an adapter of its own reads its own matrices: more bytes than the weights that all rows share.
"""

from __future__ import annotations

from handler.kernels.primitives import called, integers, share_of
from handler.kernels.product.product_outputs import AHEAD, AHEAD_BEGIN, AHEAD_END, AHEAD_WHOLE, SLOTS
from handler.kernels.team import NUM_ROWS

# Of a line of cache.
LINE_BYTES = 64
# What a thread has still to fetch, int64: the row, address and lines that are left of it, lines for each block of the
# product, where the tile begins.
ROW, PLACE, LEFT, EACH, NOW = range(5)
# The same in float32 numbers of scratch.
AHEAD_SCRATCH = 16


@called
def _find(arguments, state):  # pragma: no cover
    """Let `state` be about its row's part for this thread, which is empty if the row before has the same adapter."""
    slots, table, row = integers(arguments[SLOTS]), integers(arguments[AHEAD]), state[ROW]
    state[LEFT] = 0
    entry = slots[row] * 2
    if entry < 0 or table[entry] == 0 or (row > 0 and slots[row - 1] == slots[row]):
        return
    lines, whole = table[entry + 1], arguments[AHEAD_WHOLE]
    begin, end = lines * arguments[AHEAD_BEGIN] // whole, lines * arguments[AHEAD_END] // whole
    first, last = share_of(arguments, end - begin)
    state[PLACE], state[LEFT] = table[entry] + (begin + first) * LINE_BYTES, last - first


@called
def start_ahead(arguments, state, num_blocks):  # pragma: no cover
    """Begin with a product kernel's `arguments`, of which this thread multiplies `num_blocks` blocks.

    `AHEAD` is the address of int64 `[slots, 2]`: address and lines of what an adapter has; 0 to fetch nothing. Of the
    lines the product fetches those from `AHEAD_BEGIN` to `AHEAD_END`, in `AHEAD_WHOLE`ths.
    """
    state[EACH] = 0
    if arguments[AHEAD] == 0 or num_blocks == 0:
        return
    total = 0
    for row in range(arguments[NUM_ROWS]):
        state[ROW] = row
        _find(arguments, state)
        total += state[LEFT]
    state[EACH] = (total + num_blocks - 1) // num_blocks
    state[ROW] = 0
    _find(arguments, state)


@called
def next_ahead(arguments, state, blocks):  # pragma: no cover
    """Lines that a tile of so many blocks fetches for each block, from `NOW` on."""
    if state[EACH] == 0:
        return 0
    while state[LEFT] == 0:
        if state[ROW] + 1 >= arguments[NUM_ROWS]:
            state[EACH] = 0
            return 0
        state[ROW] += 1
        _find(arguments, state)
    lines = min(state[EACH], (state[LEFT] + blocks - 1) // blocks)
    fetched = min(state[LEFT], lines * blocks)
    state[NOW] = state[PLACE]
    state[PLACE] += fetched * LINE_BYTES
    state[LEFT] -= fetched
    return lines
