"""`bundle.json`: which interpreter and which CUDA a bundle is for."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

_FILE = "bundle.json"


@dataclass(frozen=True, slots=True)
class Description:
    """`python` is "3.12", `cuda` "130"."""

    python: str
    cuda: str

    def write(self, directory: Path) -> None:
        """Write it beside the wheels."""
        (directory / _FILE).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, directory: Path) -> Description:
        """Raises OSError if `directory` is no bundle."""
        return cls(**json.loads((directory / _FILE).read_text()))
