"""Checkpoints of bitsandbytes where its own layers serve them, on CUDA: what their configuration would spoil here."""

from __future__ import annotations

import logging
from typing import Any

from handler.model.quantize import stored_values

logger = logging.getLogger(__name__)

_THRESHOLD = "llm_int8_threshold"
# transformers' default where config.json names none.
_DEFAULT_THRESHOLD = 6.0


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
    threshold = values.get(_THRESHOLD, _DEFAULT_THRESHOLD)
    if threshold:
        logger.info(
            "%s=%s of config.json is 0 here, so that no answer depends on its neighbours", _THRESHOLD, threshold
        )
    values[_THRESHOLD] = 0.0
