"""`SharedCopies`: copies of adapters' files, one folder for each registration, which all engines read."""

from __future__ import annotations

import shutil
from pathlib import Path

from handler.engine.adapters.own_copy import is_under_way
from handler.seam.adapter_list import AdapterList


class SharedCopies:
    """The copies in `directory`, the list's own. A copy goes when nobody may ask for it any more, not with its user.

    An engine that needs one no longer drops it. Others may read it later, if they restart or if a change is undone. So
    it stays while the list names it, and while a change is under way.
    """

    def __init__(self, directory: Path) -> None:
        self._listed = AdapterList(directory)
        self._dropped: set[str] = set()

    @property
    def num_dropped(self) -> int:
        """Copies that this engine needs no longer and that are still there."""
        return len(self._dropped)

    def path(self, registration: str) -> Path:
        """The folder of a registration, which may not exist."""
        return self._listed.directory / registration

    def use(self, registration: str) -> Path:
        """The folder of a registration that this engine is about to read."""
        self._dropped.discard(registration)
        return self.path(registration)

    def drop(self, *registrations: str) -> None:
        """This engine needs these no longer."""
        self._dropped.update(registrations)

    def drop_unlisted(self) -> None:
        """Drop what earlier engines left, whole or not. One that an engine is making, under another name, is spared."""
        folders = {path.name for path in self._listed.directory.iterdir() if path.is_dir() and not is_under_way(path)}
        self.drop(*(folders - {each.registration for each in self._listed.read()}))

    def sweep(self) -> None:
        """Delete those dropped that nobody may ask for. Raises OSError if the list cannot be read."""
        with self._listed.unchanging() as is_still:
            if not is_still:
                return
            for registration in self._dropped - {each.registration for each in self._listed.read()}:
                shutil.rmtree(self.path(registration), ignore_errors=True)
                self._dropped.discard(registration)
