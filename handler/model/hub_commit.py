"""One commit of a hub repository: its list of files, and those of them that are wanted in the hub's cache.

Whatever is fetched for a start is of the commit that was listed first, also if another is pushed meanwhile.
"""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_SERVER_ERROR = 500
# A request that took too long, and too many of them: the cache can serve meanwhile.
_LATER = (408, 429)


@dataclass(frozen=True, slots=True)
class HubCommit:
    """`names` are paths of files; `sha` is None if the hub does not tell it: then the newest commit is fetched.

    `revision` is a branch, a tag or a hash, None for the branch main.
    """

    repository: str
    revision: str | None
    sha: str | None
    names: tuple[str, ...]

    def fetch(self, names: Iterable[str]) -> Path:
        """The directory of the commit in the hub's cache, with the files `names`; those it has are not fetched."""
        from huggingface_hub import snapshot_download

        patterns = [glob.escape(name) for name in names]
        return Path(snapshot_download(self.repository, revision=self.sha or self.revision, allow_patterns=patterns))

    def keep(self, directory: Path) -> None:
        """Let `revision` mean this commit, which is complete in `directory`, where there is no network.

        The cache notes what a branch is, in a file below refs/, only when the branch is asked for.
        """
        if self.sha is None or self.sha == self.revision:
            return
        ref = directory.parents[1] / "refs" / (self.revision or "main")
        scratch = ref.with_name(f".{ref.name}.{os.getpid()}")
        with contextlib.suppress(OSError):  # a cache that cannot be written has its files from elsewhere
            if not ref.is_file() or ref.read_text() != self.sha:
                ref.parent.mkdir(parents=True, exist_ok=True)
                scratch.write_text(self.sha)
                scratch.replace(ref)


def listed(repository: str, revision: str | None) -> HubCommit | None:
    """The commit that `revision` is now; None if the hub does not answer."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        found = HfApi().model_info(repository, revision=revision)
    except HfHubHTTPError as exc:
        if answers_later(exc.response.status_code):
            return None
        raise
    except Exception:  # noqa: BLE001 - no network: each HTTP library of the client has its own exceptions; or offline
        return None
    return HubCommit(repository, revision, found.sha, tuple(each.rfilename for each in found.siblings or ()))


def cached(repository: str, revision: str | None) -> Path:
    """The directory of what the cache has of a repository. Raises an error of the hub's client if it has nothing.

    Without patterns the client (2.4) demands every file of the repository, also those that were never wanted.
    """
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repository, revision=revision, local_files_only=True, allow_patterns=[]))


def answers_later(status: int) -> bool:
    """Whether this status of the hub says nothing of the repository."""
    return status >= _SERVER_ERROR or status in _LATER
