"""What holds of an adapter that is to be loaded, whichever route asks for it."""

from __future__ import annotations

import logging
import os
import re

from container.api.validation import check, show
from container.errors import AdapterFailed, AdapterInvalid
from container.serving.service import service
from handler.seam.adapter_name import MODEL_ALIASES, RULE, UPDATE, fits

logger = logging.getLogger(__name__)

# A directory's path: what a system call can carry.
SOURCE = r"^/[^\x00]+$"
# LMI runs it for the adapter's requests; here nothing of an adapter is run.
_CODE = "model.py"


def check_name(field: str, name: str) -> None:
    """Raise InvalidRequest unless path and headers can carry `name`, AdapterInvalid if it is one of the model's own."""
    check(field, f"a name of {RULE}", name, fits(name))
    check(field, f"a name that does not end in {UPDATE}, which is a route's end", name, not name.endswith(UPDATE))
    if name in MODEL_ALIASES | {service().model.card.model_id}:
        raise AdapterInvalid(f"`{field}` must not be a name of the model itself. Given: {show(name)}", param=field)


def check_source(field: str, src: str) -> None:
    """Raise InvalidRequest unless `src` may be a directory's path, AdapterFailed if its code is missed too much.

    Where code that is not run ends a start, it also keeps an adapter away.
    """
    is_path = re.fullmatch(SOURCE[1:-1], src) is not None
    check(field, "the absolute path of a directory in the container", src, is_path)
    if not os.path.isfile(os.path.join(src, _CODE)):  # unlike Path's, it is False for what no path can be
        return
    if service().settings.refuse_custom_code:
        raise AdapterFailed(f"the adapter has a {_CODE}, which is not run here (REFUSE_CUSTOM_CODE)")
    logger.warning("an adapter's %s is not run", _CODE)
