"""The adapters that requests may name, as the list of all processes has them at this moment."""

from __future__ import annotations

from container.generation.adapter_changes import SERVED
from handler.seam.adapter_list import AdapterEntry, AdapterList


class ServedAdapters:
    """A worker's view of the list: read again whenever the file has changed, which one system call tells."""

    def __init__(self, listed: AdapterList, *, awaited: bool) -> None:
        """`awaited`: the settings name adapters or ask for room for them."""
        self._listed = listed
        self._ever = awaited
        self._stamp: tuple[int, int] | None = None
        self._entries: dict[str, AdapterEntry] = {}
        self._coming: frozenset[str] = frozenset()

    @property
    def entries(self) -> dict[str, AdapterEntry]:
        """Those that every engine has, by name, in the order of registration."""
        self._look()
        return self._entries

    def may_be_one(self, model: str) -> bool:
        """Whether a `model` that is no adapter may be meant for one, so that the base model must not answer to it.

        Any may once adapters are, have been or were to be loaded; before that only one that is being loaded.
        """
        self._look()
        self._ever = self._ever or bool(self._entries) or (self._listed.directory / SERVED).exists()
        return self._ever or model in self._coming

    def _look(self) -> None:
        stamp = self._listed.stamp()
        if stamp == self._stamp:
            return
        listed = self._listed.read()
        self._entries = {each.name: each for each in listed if each.ready}
        self._coming = frozenset(each.name for each in listed if not each.ready)
        self._stamp = stamp
