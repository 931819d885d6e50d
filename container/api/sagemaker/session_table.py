"""SageMaker's stateful sessions ("Stateful sessions with Amazon SageMaker models" in its developer guide).

SageMaker sends all calls of a session to one instance, so they find the session's prefix in the cache. The table is a
directory that all web workers share: one empty file for each session, whose modification time is when the session
expires.
"""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from container.errors import MAX_RETRY_AFTER_S, Overloaded, SessionUnknown

_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class Session:
    """An id of letters and digits, and when it expires, in seconds since the epoch."""

    id: str
    expires_s: int

    @property
    def header(self) -> str:
        """`X-Amzn-SageMaker-New-Session-Id` as SageMaker wants it: `<id>; Expires=YYYY-MM-DDTHH:MM:SSZ`."""
        end = datetime.fromtimestamp(self.expires_s, UTC)
        return f"{self.id}; Expires={end:%Y-%m-%dT%H:%M:%SZ}"


@dataclass(frozen=True, slots=True)
class SessionTable:
    """At most `limit` sessions of `life_s` seconds each, below `directory`."""

    directory: Path
    life_s: float
    limit: int = 1024

    def open(self) -> Session:
        """A new session; expired ones are removed first. Raises Overloaded at the limit."""
        self.directory.mkdir(mode=0o700, exist_ok=True)
        if self._sweep() >= self.limit:
            raise Overloaded(f"there are {self.limit} open sessions; close one first", retry_after_s=MAX_RETRY_AFTER_S)
        session = Session(secrets.token_hex(_ID_BYTES), int(time.time() + self.life_s))
        path = self.directory / session.id
        path.touch(mode=0o600, exist_ok=False)
        os.utime(path, (session.expires_s, session.expires_s))
        return session

    def check(self, session_id: str) -> None:
        """Raises SessionUnknown unless the session is open."""
        if self._expiry(session_id) <= time.time():
            raise SessionUnknown(session_id)

    def expired(self, session_id: str) -> bool:
        """Whether the session was opened here and its time is over; not known of one that was swept since."""
        return 0 < self._expiry(session_id) <= time.time()

    def close(self, session_id: str) -> None:
        """Raises SessionUnknown unless the session was open."""
        self.check(session_id)
        self._path(session_id).unlink(missing_ok=True)

    def _sweep(self) -> int:
        """Remove expired sessions and return the number of open ones."""
        now = time.time()
        num_open = 0
        for entry in os.scandir(self.directory):
            if self._expiry(entry.name) > now:
                num_open += 1
            else:
                Path(entry.path).unlink(missing_ok=True)
        return num_open

    def _expiry(self, session_id: str) -> float:
        try:
            return self._path(session_id).stat().st_mtime
        except (OSError, ValueError):
            return 0.0

    def _path(self, session_id: str) -> Path:
        # An id comes from a header: only an id that `open` can have made may become a file name.
        if len(session_id) != 2 * _ID_BYTES or not session_id.isascii() or not session_id.isalnum():
            raise ValueError(session_id)
        return self.directory / session_id
