"""What the engine asks of whatever runs the model. See model_runner.py, paged_runner.py, cache_runner.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from handler.model.loader import LoadedModel
from handler.runners.limits import Limits
from handler.scheduling.kv_manager import KVManager
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence


@dataclass(frozen=True, slots=True, eq=False)
class StepLogits:
    """What one forward pass is for.

    `logits` `[S, vocab]`, any float dtype, are those of the rows that choose a token, in the order of `samples`.
    `prompt` holds, for each chunk of a request that asked for prompt log-probabilities, the logits
    `[num_tokens, vocab]` of all its rows.
    """

    logits: Tensor
    samples: list[ScheduledSequence]
    prompt: list[tuple[ScheduledSequence, Tensor]] = field(default_factory=list)


class Runner(Protocol):
    """Runs scheduled batches through one loaded model."""

    loaded: LoadedModel
    # Layers of the last pass that called the engine's attention; 0 for a runner that uses the model's own.
    num_attention_calls: int

    @property
    def name(self) -> str:
        """What logs and the model card call it."""

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""

    def run(self, batch: ScheduledBatch) -> StepLogits:
        """One forward pass. What it computed of every sequence is kept for the next pass."""

    def prove(self) -> None:
        """Run the start-up trial. Raises UnsupportedModel unless the model is computed as by its eager attention."""

    def kv_manager(self, limits: Limits) -> KVManager:
        """The books of the memory this runner keeps its keys and values in."""

    def retry(self, item: ScheduledSequence) -> ScheduledSequence:
        """An item of a pass that raised, as it must be scheduled to run again. What the pass left of it is void."""

    def forget(self, slot: int, num_tokens: int) -> None:
        """The sequence in `slot`, which wrote `num_tokens` tokens at most, is gone; nothing of it may reach another."""
