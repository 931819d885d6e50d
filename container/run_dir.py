"""The private directory (mode 0700) through which PID 1, the web workers and the engine find each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# How PID 1 tells its children; these are not settings.
RUN_DIR_VARIABLE = "HEIR_RUN_DIR"
LISTEN_FD_VARIABLE = "HEIR_LISTEN_FD"
WORKERS_VARIABLE = "HEIR_WEB_WORKERS"


@dataclass(frozen=True, slots=True)
class RunDir:
    """Names of the files in `path`."""

    path: Path

    @property
    def board(self) -> Path:
        """The status board."""
        return self.path / "board"

    @property
    def card(self) -> Path:
        """The model card, written by the engine before it says ready."""
        return self.path / "card.json"

    @property
    def hazards(self) -> Path:
        """What the engine has in hand (handler.suspects)."""
        return self.path / "hazards"

    @property
    def suspects(self) -> Path:
        """Requests at which engines died."""
        return self.path / "suspects"

    @property
    def refusal(self) -> Path:
        """One sentence, written by a web worker that cannot use the model's text files; PID 1 ends with it."""
        return self.path / "refusal"

    @property
    def engine_config(self) -> Path:
        """The engine's configuration, written by PID 1 before each start."""
        return self.path / "engine.json"

    @property
    def sessions(self) -> Path:
        """One file for each open SageMaker session; made when the first is opened."""
        return self.path / "sessions"

    @property
    def places(self) -> Path:
        """How many sequences each web worker has taken in."""
        return self.path / "places"

    def socket(self, epoch: int) -> Path:
        """Where the engine of an epoch listens; a new engine never meets an old engine's peers."""
        return self.path / f"engine-{epoch}.sock"
