#!/usr/bin/env bash
# auto-round: of weights in 5, 6 and 7 bits without symmetry, some end at the other end of their range once packed.
#
# What happens: `QuantLinear.pack` computes codes as round(weight / scale + zero point). The zero point is a rounded
#   number, so the largest weight of a group can get the code 2^bits, one too many. For 2, 3, 4 and 8 bits codes are
#   limited before they are packed; for 5, 6 and 7 bits they are not: the code becomes 0, and the bit above it goes
#   into the next code. Of 65,536 random weights 4 (5 bits), 13 (6 bits) and 15 (7 bits) were wrong, by up to the
#   whole range.
# Expected instead: the weights that auto-round's own quantiser (`quant_tensor_asym`) says it has quantised to.
# Why it matters: the largest weight of a group becomes its smallest. At this rate a model of 7 billion weights has
#   hundreds of thousands of them. More bits make it worse than 4, against all expectation.
# What helps: 4 or 8 bits.
# Explained in: not documented. A comment beside the limit for 2, 4 and 8 bits says that codes without it corrupt the
#   next one.
# Seen: 2026-11-30, auto-round 0.16.1, torch 2.13.0 (CPU), Python 3.11, Linux x86-64.
#
# Output seen. The script compares these lines with what it gets:
#= auto-round 0.16.1
#= 4 bits: weights that packing moves by more than a step: none
#= 5 bits: weights that packing moves by more than a step: some
#= 6 bits: weights that packing moves by more than a step: some
#= 7 bits: weights that packing moves by more than a step: some
#= 8 bits: weights that packing moves by more than a step: none
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 \
    auto-round==0.16.1

"$work/venv/bin/python" -I - >"$work/seen" 2>"$work/log" <<'PY' || { cat "$work/log" >&2; exit 1; }
import contextlib
import sys

with contextlib.redirect_stdout(sys.stderr):
    import auto_round
    import torch
    from auto_round.data_type.int import quant_tensor_asym
    from auto_round_extension.torch.qlinear_torch import QuantLinear

SIZE, GROUP = 256, 32
print(f"auto-round {auto_round.__version__}")
for bits in (4, 5, 6, 7, 8):
    torch.manual_seed(0)
    linear = torch.nn.Linear(SIZE, SIZE, bias=False)
    weight, scale, zero = quant_tensor_asym(linear.weight.data.clone(), bits=bits, group_size=GROUP)
    scale, zero = scale.reshape(SIZE, -1).float(), zero.reshape(SIZE, -1)
    layer = QuantLinear(bits, GROUP, SIZE, SIZE, bias=False)
    layer.device = "cpu"
    layer.pack(linear, scale, zero, None, device="cpu")
    layer.scales = layer.scales.float()
    packed = layer(torch.eye(SIZE)).t()
    steps = (packed - weight).abs() / scale.repeat_interleave(GROUP, 1)
    num_wrong = int((steps > 1.5).sum())
    print(f"{bits} bits: {num_wrong} of {SIZE * SIZE}, by up to {steps.max():.0f} steps", file=sys.stderr)
    print(f"{bits} bits: weights that packing moves by more than a step: {'some' if num_wrong else 'none'}")
PY

cat "$work/seen"
sed -n 's/^#= //p' "$0" >"$work/expected"
diff "$work/expected" "$work/seen" || { echo "The behaviour has changed." >&2; exit 1; }
echo "As described."
