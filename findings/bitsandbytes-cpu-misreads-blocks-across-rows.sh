#!/usr/bin/env bash
# bitsandbytes on a CPU dequantises a 4-bit matrix wrongly if its rows are no multiple of the block.
#
# What happens: `quantize_4bit` gives a scale to each 64 weights of the flattened matrix, so a block crosses from one row
#   to the next where the number of columns is no multiple of 64. `dequantize_4bit` on a CPU begins a new block in each
#   row instead, and takes the scales of other weights. Nothing fails; weights are off by up to their own size.
# Expected instead: what `dequantize_4bit` gives on a GPU and by the library's general code, within the rounding of nf4.
# Why it matters: models whose layers have 96, 160 or 2,880 inputs, saved in nf4 on a GPU, answer nonsense on a CPU.
# What helps: dequantise by `code[nibbles] * absmax.repeat_interleave(blocksize)`, as below.
# Explained in: bitsandbytes 0.50.2, backends/cpu/ops.py, `dequantize_4bit`, which hands rows to a kernel that counts
#   blocks from the start of each row. Some widths (72, 100) come out right.
# Seen: 2026-11-30, bitsandbytes 0.50.2, torch 2.13.0+cpu, Python 3.11, Linux x86-64 with AVX-512.
#
# Output seen. The script compares these lines with what it gets:
#= bitsandbytes 0.50.2
#= 48 x 128: as stored
#= 48 x 96: differs by more than 1
#= 64 x 160: differs by more than 1
#= 5 x 100: as stored
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 bitsandbytes==0.50.2

"$work/venv/bin/python" -I >"$work/seen" 2>"$work/log" <<'PY'
import bitsandbytes
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

print(f"bitsandbytes {bitsandbytes.__version__}")
for rows, columns in ((48, 128), (48, 96), (64, 160), (5, 100)):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    packed, state = quantize_4bit(weight, blocksize=64, quant_type="nf4")
    nibbles = torch.stack([packed >> 4, packed & 15], -1).flatten()[: weight.numel()].long()
    stored = state.code[nibbles] * state.absmax.repeat_interleave(64)[: weight.numel()]
    gap = float((dequantize_4bit(packed, state) - stored.view(rows, columns)).abs().max())
    print(f"{rows} x {columns}:", "as stored" if gap < 1e-6 else "differs by more than 1" if gap > 1 else gap)
PY

cat "$work/seen"
sed -n 's/^#= //p' "$0" >"$work/expected"
diff "$work/expected" "$work/seen" || { echo "The behaviour has changed." >&2; exit 1; }
echo "As described."
