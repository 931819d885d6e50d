"""What is compiled for one number of rows after the other is not kept for ever."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
from handler.__main__ import bound_compiled
bound_compiled()
import random, psutil, torch
from handler.linears.onednn_linear import OneDnnLinear
torch.set_num_threads(1)
linears = [OneDnnLinear(torch.randn(n, k)) for n, k in ((64, 64), (96, 64), (128, 64), (64, 128))]
cases = [(linear, rows) for linear in linears for rows in range(2, 258)]
random.Random(1).shuffle(cases)
def grown(some):
    before = psutil.Process().memory_info().rss
    for linear, rows in some:
        linear(torch.randn(rows, linear.in_features))
    return psutil.Process().memory_info().rss - before
print(grown(cases[:256]), grown(cases[256:]))
"""


def test_memory_stands_still_once_enough_is_compiled() -> None:
    """The first 256 take 140 MB, three times as many after them 40 MB; without a bound it would be 420 MB."""
    ended = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    first, others = (int(number) for number in ended.stdout.split())
    assert others < first
