"""Every weight of a model comes from its files, or from a tie that its configuration states.

transformers draws absent weights at random and says so in a report that nobody sees.
"""

from __future__ import annotations

import logging
import traceback
from typing import Any

from torch import nn

from handler.seam.errors import BadModel

logger = logging.getLogger(__name__)


def check_weights(model: nn.Module, info: dict[str, Any], where: str) -> None:
    """Raise BadModel that names the first weight of the wrong shape, else the first absent one; log unused ones.

    `info` is the `output_loading_info` of transformers' `from_pretrained`: buffers that are computed and tied weights
    are none of its missing keys. `where` names the files in messages.
    """
    unused = sorted(info["unexpected_keys"])
    _check_shapes(info["mismatched_keys"], where)
    absent = _in_order_of(model, set(info["missing_keys"]))
    if absent:
        hint = _prefix_hint(absent[0], unused)
        raise BadModel(f"{where} lacks {len(absent)} of the model's weights, the first is {absent[0]}{hint}")
    if unused:
        # Those of a language part alone are the other parts'.
        level = logging.INFO if getattr(model, "is_text_part", False) else logging.WARNING
        logger.log(level, "%s: %d weights are not used, the first is %s", where, len(unused), unused[0])


def unconverted(exc: BaseException) -> str | None:
    """The first weight that `from_pretrained` could not make of the files' tensors, as of an expert of another shape.

    Its exception names none and refers to the report, so the name is read where the exception was raised.
    """
    for frame, _ in traceback.walk_tb(exc.__traceback__):
        names: dict[str, str] | None = getattr(frame.f_locals.get("loading_info"), "conversion_errors", None)
        if names:
            return min(names)
    return None


def _check_shapes(mismatched: set[tuple[str, tuple[int, ...], tuple[int, ...]]], where: str) -> None:
    for name, found, expected in sorted(mismatched):
        raise BadModel(
            f"{where}: the weight {name} has the shape {list(found)}, and config.json makes it {list(expected)} "
            f"({len(mismatched)} such weights)"
        )


def _in_order_of(model: nn.Module, names: set[str]) -> list[str]:
    """`names` as they stand in the model, then those that it does not have."""
    ordered = [name for name in model.state_dict(keep_vars=True) if name in names]
    return ordered + sorted(names.difference(ordered))


def _prefix_hint(absent: str, unused: list[str]) -> str:
    """What to do if the files hold the weight under a longer key: PEFT, torch.compile and DDP put words before it."""
    renamed = next((name for name in unused if name.endswith(f".{absent}")), None)
    if renamed is None:
        return ""
    return f"; it is stored as {renamed}, so take the prefix {renamed.removesuffix(absent)!r} off the keys"
