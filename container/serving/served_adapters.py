"""The adapters that requests may name, as the list of all processes has them at this moment."""

from __future__ import annotations

from handler.seam.adapter_list import CHANGES, AdapterEntry, AdapterList


class ServedAdapters:
    """A worker's view of the list: read again whenever the file has changed, which one system call tells."""

    def __init__(self, listed: AdapterList, *, begins_with_some: bool) -> None:
        """`begins_with_some`: LORA_ADAPTERS names adapters."""
        self._listed = listed
        self._ever = begins_with_some
        self._stamp: tuple[int, int] | None = None
        self._entries: dict[str, AdapterEntry] = {}

    @property
    def entries(self) -> dict[str, AdapterEntry]:
        """Those that every engine has, by name, in the order of registration."""
        stamp = self._listed.stamp()
        if stamp != self._stamp:
            self._entries = {each.name: each for each in self._listed.read() if each.ready}
            self._stamp = stamp
        return self._entries

    @property
    def any_ever(self) -> bool:
        """Whether adapters are or have been loaded, or were to be.

        From then on a name that is unknown may be that of an adapter, so the base model must not answer to it.
        """
        self._ever = self._ever or bool(self.entries) or (self._listed.directory / CHANGES).exists()
        return self._ever
