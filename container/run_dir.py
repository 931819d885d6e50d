"""File names in the private directory (mode 0700) that PID 1, the web workers and the engines share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# Set by PID 1 for its children; not settings.
RUN_DIR_VARIABLE = "HEIR_RUN_DIR"
LISTEN_FD_VARIABLE = "HEIR_LISTEN_FD"
WORKERS_VARIABLE = "HEIR_WEB_WORKERS"
# prometheus_client reads this on import: the directory where each process keeps its counts.
METRICS_DIR_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


@dataclass(frozen=True, slots=True)
class EngineDir:
    """The files of one engine, in `path`."""

    path: Path

    @property
    def board(self) -> Path:
        """The status board."""
        return self.path / "board"

    @property
    def card(self) -> Path:
        """The model card; the engine writes it before it reports ready."""
        return self.path / "card.json"

    @property
    def hazards(self) -> Path:
        """The requests in the engine's current step (handler.seam.suspects)."""
        return self.path / "hazards"

    @property
    def engine_config(self) -> Path:
        """The engine's configuration; PID 1 writes it before each start."""
        return self.path / "engine.json"

    def socket(self, epoch: int) -> Path:
        """The engine's socket, one for each start, so that messages to an old engine never reach a new one."""
        return self.path / f"engine-{epoch}.sock"


@dataclass(frozen=True, slots=True)
class RunDir(EngineDir):
    """The container's files in `path`, which also holds those of the first engine."""

    @property
    def suspects(self) -> Path:
        """Fingerprints of requests that were running when an engine died."""
        return self.path / "suspects"

    @property
    def adapters(self) -> Path:
        """Directory of the list of adapters and of the engines' copies (handler.seam.adapter_list)."""
        return self.path / "adapters"

    @property
    def refusal(self) -> Path:
        """One sentence, written by a web worker that cannot use the model's text files; PID 1 logs it and exits."""
        return self.path / "refusal"

    @property
    def template_fault(self) -> Path:
        """Created by the first web worker that finds the chat template unusable."""
        return self.path / "template-fault"

    @property
    def template_told(self) -> Path:
        """Created by the first web worker that says in the log what the chat template is like."""
        return self.path / "template-told"

    @property
    def sessions(self) -> Path:
        """Directory with one file for each open SageMaker session; created with the first."""
        return self.path / "sessions"

    @property
    def spans(self) -> Path:
        """The socket of the exporter process, which takes the spans of all web workers."""
        return self.path / "spans.sock"

    @property
    def concurrency(self) -> Path:
        """How many sequences each web worker has in flight."""
        return self.path / "concurrency"

    def metrics_environ(self) -> dict[str, str]:
        """Environment variable that tells prometheus_client where each process keeps its counts."""
        return {METRICS_DIR_VARIABLE: str(self.path)}

    def engine(self, index: int) -> EngineDir:
        """The directory of engine `index`."""
        return self if index == 0 else EngineDir(self.path / f"engine-{index}")
