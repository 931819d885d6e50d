#!/usr/bin/env bash
# torch on CPU, bfloat16: `F.linear` of one row gives other bits than the same row beside any second row.
#
# What happens: oneDNN sums a lone row in another order than several rows. Of 64 rows through a 4096 x 4096 weight, 38
#   got other bits when each was computed alone. From two rows on, bits no longer depend on the number of rows. A lone
#   row given twice gets the bits of the batch.
# Expected instead: either each row of `x @ W.T` is independent of the others, bits included, or results vary with the
#   number of rows throughout. One size apart from all others is neither.
# Why it matters: a greedy answer can change with the load of a server, where two tokens are nearly equal: the same
#   request is a batch of one on an idle server only.
# What helps: give a lone row twice and keep the first result. The time goes into reading the weight, not into rows.
# Explained in: not documented. torch's notes on numerical accuracy say only that batched and single computations may
#   differ.
# Seen: 2026-11-30, torch 2.13.0 (CPU, oneDNN), Python 3.11, Linux x86-64, AMD EPYC (Zen 4), one thread.
#   DEPENDS ON THE PROCESSOR: it takes oneDNN's kernels for AVX-512 with bfloat16. The script keeps oneDNN from AMX,
#   where sums follow other rules, and ends with "not applicable" and status 0 on processors without avx512_bf16.
#
# Output seen. The script compares these lines with what it gets:
#= torch 2.13.0
#= rows of 64 with other bits alone: some
#= rows of 64 with other bits in batches of 2, 3, 4, 5, 7, 8, 16, 32: none
#= rows of 64 with other bits when given twice: none
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6

ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 "$work/venv/bin/python" -I - >"$work/seen" <<'PY'
import sys

import torch
import torch.nn.functional as F

if not torch.cpu._is_avx512_bf16_supported():
    print("not applicable on this processor: no avx512_bf16")
    sys.exit()

NUM_ROWS = 64
SIZES = (2, 3, 4, 5, 7, 8, 16, 32)

torch.set_num_threads(1)
torch.manual_seed(0)
weight = torch.randn(4096, 4096).bfloat16()
rows = torch.randn(NUM_ROWS, 4096).bfloat16()
together = F.linear(rows, weight)


def differing(size: int) -> int:
    """Rows whose bits differ from those in the batch of all, when computed `size` at a time."""
    parts = [F.linear(part, weight) for part in rows.split(size) if len(part) == size]
    found = torch.cat(parts)
    return int((found != together[: len(found)]).any(dim=1).sum())


twice = torch.cat([F.linear(row.repeat(2, 1), weight)[:1] for row in rows.split(1)])
num_twice = int((twice != together).any(dim=1).sum())
alone = differing(1)
others = sum(differing(size) for size in SIZES)
print(f"alone {alone}, in batches {others}, twice {num_twice}", file=sys.stderr)
print(f"torch {torch.__version__.partition('+')[0]}")
print(f"rows of {NUM_ROWS} with other bits alone: {'some' if alone else 'none'}")
print(f"rows of {NUM_ROWS} with other bits in batches of {', '.join(map(str, SIZES))}: {'some' if others else 'none'}")
print(f"rows of {NUM_ROWS} with other bits when given twice: {'some' if num_twice else 'none'}")
PY

cat "$work/seen"
if grep -q "^not applicable" "$work/seen"; then exit 0; fi
sed -n 's/^#= //p' "$0" >"$work/expected"
diff "$work/expected" "$work/seen" || { echo "The behaviour has changed." >&2; exit 1; }
echo "As described."
