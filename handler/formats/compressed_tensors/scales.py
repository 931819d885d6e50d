"""Scales, zero points and orders: as stored for each strategy, and as a quantised weight has them.

Source: compressed-tensors 0.20.1 (`_dequantize`: `(code - zero) * (scale / global scale)`; `_process_group`,
`_process_block`, `decompress_mx_scale`) and 0.17.0 for `g_idx`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from handler.formats.compressed_tensors.config_groups import WeightArgs
from handler.formats.floats.codes import as_float


def by_group(values: Tensor, shape: tuple[int, int], args: WeightArgs) -> Tensor:
    """One value for each row and group, `[N, K / group]`, of values stored for the strategy; `shape` is `[N, K]`.

    A block that K does not fill is split into groups that do. Raises ValueError for a wrong number of values.
    """
    (num_rows, num_inputs), (height, width) = shape, args.block
    if args.strategy == "block":
        needed = (-(-num_rows // height), -(-num_inputs // width))
        _check(values, needed, args)
        step = math.gcd(width, num_inputs)
        rows = values.reshape(needed).repeat_interleave(height, 0)[:num_rows]
        return rows.repeat_interleave(width // step, 1)[:, : num_inputs // step].contiguous()
    if args.strategy == "tensor":
        _check(values, (1, 1), args)
        return values.reshape(1, 1).expand(num_rows, 1).contiguous()
    if args.group and num_inputs % args.group:
        raise ValueError(f"{num_inputs} inputs are no multiple of group_size {args.group}")
    needed = (num_rows, num_inputs // args.group if args.group else 1)
    _check(values, needed, args)
    return values.reshape(needed)


def _check(values: Tensor, needed: tuple[int, int], args: WeightArgs) -> None:
    if [side for side in values.shape if side != 1] != [side for side in needed if side != 1]:
        raise ValueError(f"strategy {args.strategy} needs {list(needed)} of them, not {list(values.shape)}")


def finite(scale: Tensor) -> Tensor:
    """Scales as float32. Raises ValueError if one is not finite."""
    values = as_float(scale)
    if not values.isfinite().all():
        raise ValueError("one of them is not a finite number")
    return values


def order_of(groups: Tensor, group: int) -> Tensor | None:
    """Inputs by group, int64 `[K]`, of the group of each input; None if they lie in order or the groups are not set.

    Raises ValueError if the groups are not all of `group` inputs.
    """
    if (groups < 0).any():
        return None
    counts = torch.bincount(groups)
    if not group or (counts != group).any():
        raise ValueError(f"not every group has {group} inputs")
    order = groups.argsort(stable=True)
    return None if torch.equal(order, torch.arange(len(order))) else order
