"""Counter-based randomness: the draw for token i of a request is a pure function of (seed, i). Pure Python.

There is no generator state, so a request's draws cannot depend on its neighbours, its slot, preemption or a restart.
The mixing function is splitmix64's finaliser (Steele, Lea, Flood 2014).
"""

from __future__ import annotations

_MASK = (1 << 64) - 1
# The largest draw would round to 1.
_BELOW_ONE = 1.0 - 2.0**-53


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def uniform(seed: int, index: int) -> float:
    """The draw in (0, 1) for token `index` of a request with `seed`; 53 bits, never 0 or 1."""
    bits = _mix((_mix((seed + 0x9E3779B97F4A7C15) & _MASK) + index * 0x9E3779B97F4A7C15) & _MASK)
    return min(((bits >> 11) + 0.5) / (1 << 53), _BELOW_ONE)
