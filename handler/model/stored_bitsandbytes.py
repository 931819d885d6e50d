"""Checkpoints of bitsandbytes where its own layers serve them, on CUDA: what their configuration would spoil here."""

from __future__ import annotations

import logging
from typing import Any

from handler.formats.bitsandbytes import OUTLIERS_FROM, outliers_from
from handler.model.quantize import stored_values

logger = logging.getLogger(__name__)


def silence_bitsandbytes() -> None:
    """Leave errors alone in its log: it warns in each int8 layer of each pass that it casts bfloat16 to float16."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def drop_threshold(model_config: Any) -> None:
    """Compute all features of a stored 8-bit checkpoint in 8 bits.

    Above the threshold, features are chosen from the whole batch, so a neighbour would change a sequence's numbers
    (docs/decisions/0012).
    """
    values = stored_values(model_config)
    if not values.get("load_in_8bit"):
        return
    if threshold := outliers_from(values):
        logger.info(
            "%s=%s of config.json is 0 here, so that no answer depends on its neighbours", OUTLIERS_FROM, threshold
        )
    values[OUTLIERS_FROM] = 0.0
