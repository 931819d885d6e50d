#!/usr/bin/env bash
# numba: `fastmath` of a function reorders sums that an `@intrinsic` has written as LLVM instructions, unless they carry
# some flag.
#
# What happens: an intrinsic emits `fadd` by llvmlite's builder, without flags: in LLVM that is an exact, ordered sum.
#   When a function compiled with `fastmath=True` calls it, numba goes over the whole module and gives its own flags to
#   each float instruction that has none. (a + b) - a then is b. An instruction with any flag of its own, "nsz" for
#   instance, is left alone.
# Expected instead: instructions that the author of an intrinsic has chosen stay as they are, flags or no flags.
# Why it matters: an intrinsic is where one writes what must not be reordered: a compensated sum, or one whose bits must
#   not depend on the shape of a loop. The same sum in two functions may end with other bits.
# What helps: give each such instruction a harmless flag (`builder.fadd(a, b, flags=("nsz",))`), or use an intrinsic of
#   the processor with its rounding written out.
# Explained in: numba documents `fastmath` for the decorated function's own code; that it reaches into intrinsics, and
#   that a flag keeps it out, is in no page, only in numba/core/fastmathpass.py.
# Seen: 2026-11-30, numba 0.68.1, llvmlite 0.50.0, Python 3.11, Linux x86-64.
#
# Output seen. The script compares these lines with what it gets:
#= numba 0.68.1
#= a sum without flags, fastmath off: (1e8 + 1) - 1e8 = 0
#= a sum without flags, fastmath on: (1e8 + 1) - 1e8 = 1
#= a sum with the flag nsz, fastmath on: (1e8 + 1) - 1e8 = 0
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check numba==0.68.1 llvmlite==0.50.0

"$work/venv/bin/python" -I - >"$work/seen" 2>"$work/log" <<'PY' || { cat "$work/log" >&2; exit 1; }
import numba
from numba import cfunc, types
from numba.extending import intrinsic


def made(flags, fastmath):
    """A compiled function that adds by LLVM's instruction, in float32."""

    @intrinsic
    def add(_context, one, other):
        def generate(_context, builder, _signature, arguments):
            return builder.fadd(*arguments, flags=flags)

        return types.float32(one, other), generate

    @cfunc(types.float32(types.float32, types.float32), fastmath=fastmath)
    def difference(one, other):
        return add(add(one, other), -one)

    return difference


print(f"numba {numba.__version__}")
cases = {"without flags, fastmath off": ((), False), "without flags, fastmath on": ((), True)}
cases["with the flag nsz, fastmath on"] = (("nsz",), True)
for name, (flags, fastmath) in cases.items():
    print(f"a sum {name}: (1e8 + 1) - 1e8 = {made(flags, fastmath).ctypes(1e8, 1.0):g}")
PY

cat "$work/seen"
sed -n 's/^#= //p' "$0" >"$work/expected"
diff "$work/expected" "$work/seen" || { echo "The behaviour has changed." >&2; exit 1; }
echo "As described."
