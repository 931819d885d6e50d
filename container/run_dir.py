"""The private directory (mode 0700) through which PID 1, the web workers and the engine find each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# How PID 1 tells its children; these are not settings.
RUN_DIR_VARIABLE = "HEIR_RUN_DIR"
LISTEN_FD_VARIABLE = "HEIR_LISTEN_FD"
WORKERS_VARIABLE = "HEIR_WEB_WORKERS"
# prometheus_client's, read when it is imported: where each process keeps its counts.
METRICS_DIR_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


@dataclass(frozen=True, slots=True)
class EngineDir:
    """Names of one engine's files in `path`."""

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
        """What the engine has in hand (handler.seam.suspects)."""
        return self.path / "hazards"

    @property
    def engine_config(self) -> Path:
        """The engine's configuration, written by PID 1 before each start."""
        return self.path / "engine.json"

    def socket(self, epoch: int) -> Path:
        """Where the engine of an epoch listens; a new engine never meets an old engine's peers."""
        return self.path / f"engine-{epoch}.sock"


@dataclass(frozen=True, slots=True)
class RunDir(EngineDir):
    """Names of the container's files in `path`, where those of its first engine are too."""

    @property
    def suspects(self) -> Path:
        """Requests at which engines died."""
        return self.path / "suspects"

    @property
    def refusal(self) -> Path:
        """One sentence, written by a web worker that cannot use the model's text files; PID 1 ends with it."""
        return self.path / "refusal"

    @property
    def template_fault(self) -> Path:
        """Made by the first web worker that finds that the chat template cannot run."""
        return self.path / "template-fault"

    @property
    def sessions(self) -> Path:
        """One file for each open SageMaker session; made when the first is opened."""
        return self.path / "sessions"

    @property
    def concurrency(self) -> Path:
        """How many sequences each web worker has in flight."""
        return self.path / "concurrency"

    def metrics_environ(self) -> dict[str, str]:
        """Read by prometheus_client when it is imported: where each process keeps its counts."""
        return {METRICS_DIR_VARIABLE: str(self.path)}

    def engine(self, index: int) -> EngineDir:
        """Where the files of engine `index` are."""
        return self if index == 0 else EngineDir(self.path / f"engine-{index}")
