"""`Runner`: what the engine needs from code that runs a model. `slots`, `paged`, `dynamic_cache` implement it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from handler.adapters.adapter import Adapter
from handler.model.loader import LoadedModel
from handler.runners.limits import Limits
from handler.scheduling.kv_manager import KVManager
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence

NO_ROOM_FOR_ADAPTERS = (
    "This server set no GPU memory aside for adapters at its start: set ENABLE_ADAPTERS=true or LORA_ADAPTERS"
)


@dataclass(frozen=True, slots=True, eq=False)
class StepLogits:
    """The result of one forward pass.

    `logits` `[S, vocab]`, any float dtype, hold the rows that choose a token, in the order of `samples`: one row for
    each item, and one more for each token of its draft.
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
    # True if results are the same bits for any number of threads, so that each step may have another.
    same_by_any_threads: bool

    # Why drafts cannot be verified, in words for the log; None where they can.
    drafts_obstacle: str | None

    # Why adapters cannot be loaded, one sentence for a client; None where they can.
    adapters_obstacle: str | None

    @property
    def name(self) -> str:
        """Its name in logs and in the model card."""

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""

    def run(self, batch: ScheduledBatch) -> StepLogits:
        """Run one forward pass. Keys, values and states of every sequence are kept for the next pass."""

    def prove(self) -> None:
        """Run the start-up trial. Raises UnsupportedModel unless the model is computed as by its eager attention."""

    def kv_manager(self, limits: Limits) -> KVManager:
        """Accounting of the memory that holds this runner's keys and values."""

    def retry(self, item: ScheduledSequence) -> ScheduledSequence:
        """The item to schedule after a pass that raised: whatever that pass wrote for the sequence does not count."""

    def discard(self, item: ScheduledSequence, num_accepted: int) -> None:
        """Undo what the last pass wrote for the tokens of the item's draft after the first `num_accepted`.

        Called where that matters: the logits of such a token are not numbers.
        """

    def forget(self, slot: int, num_tokens: int) -> None:
        """Forget the sequence in `slot`, of at most `num_tokens` tokens. None of its data may reach another."""

    def prepare_adapter(self, adapter: Adapter) -> Adapter:
        """The adapter in a form that `load_adapter` takes in a moment, in place of `adapter`.

        Called in another thread than the loop's, which runs passes meanwhile. Raises as `load_adapter`.
        """

    def load_adapter(self, slot: int, adapter: Adapter) -> None:
        """Let rows of sequences with this `adapter_slot` have `adapter` from the next pass on. `slot` is empty.

        Takes milliseconds if `adapter` was prepared, in the thread of the loop. Raises BadAdapter for what this runner
        cannot do, and what torch raises if memory runs out; the slot is then empty.
        """

    def check_adapter(self, adapter: Adapter) -> None:
        """Raise what `load_adapter` would raise, whatever the slots hold. Changes nothing."""

    def unload_adapter(self, slot: int) -> None:
        """Empty `slot` and give back its memory, as far as it is not fixed. No running sequence uses it."""


class WithoutAdapters:
    """The part of `Runner` about adapters, of a runner that takes none."""

    adapters_obstacle: str | None = "This model is served by a runner that takes no adapters"

    def prepare_adapter(self, adapter: Adapter) -> Adapter:
        """Not called: there is an obstacle."""
        raise NotImplementedError

    def load_adapter(self, slot: int, adapter: Adapter) -> None:
        """Not called: there is an obstacle."""
        raise NotImplementedError

    def check_adapter(self, adapter: Adapter) -> None:
        """Not called: there is an obstacle."""
        raise NotImplementedError

    def unload_adapter(self, slot: int) -> None:
        """Not called: no slot is filled."""
        raise NotImplementedError
