"""What /adapters answers, in DJL Serving's types (its page on the adapters API)."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType


class AdapterStatus(msgspec.Struct, frozen=True):
    """What has been done."""

    status: str


class AdapterAnswer(msgspec.Struct, frozen=True):
    """A loaded adapter. `src` is where it was loaded from; the files may have gone since."""

    name: str
    src: str
    pin: bool


class AdapterPage(msgspec.Struct, frozen=True, rename="camel"):
    """Adapters in the order of registration; with `nextPageToken` there are more."""

    adapters: list[AdapterAnswer]
    next_page_token: str | UnsetType = UNSET


class AdapterError(msgspec.Struct, frozen=True):
    """`code` is the status, `type` the kind of error in one word."""

    code: int
    type: str
    message: str
