"""`Rows`: sequences in a runner's memory whose next step can be run again and again."""

from __future__ import annotations

from handler.runners.runner import Runner, StepLogits
from handler.scheduling.kv_manager import KVManager
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence
from handler.scheduling.sequence import Sequence
from handler.seam.protocol import GenerateRequest, SamplingParams


def new_sequence(index: int, num_tokens: int, vocab_size: int, sampling: SamplingParams | None = None) -> Sequence:
    """A prompt of `num_tokens` that shares no prefix with another index's."""
    ids = [(7 * index + 11 * i + 5) % min(vocab_size, 256) for i in range(num_tokens)]
    sampling = sampling or SamplingParams(max_tokens=64, seed=0, temperature=0.0, ignore_eos=True)
    return Sequence(GenerateRequest(f"row{index}", ids, sampling, 600.0, reuse_prefix=False), b"", 0.0, float("inf"))


class Rows:
    """Sequences of `num_tokens` tokens each, all but the last computed."""

    def __init__(self, runner: Runner, kv: KVManager, count: int, num_tokens: int) -> None:
        self._runner = runner
        self._kv = kv
        self.seqs = [new_sequence(i, num_tokens, runner.vocab_size) for i in range(count)]
        for seq in self.seqs:
            if not self._kv.allocate(seq) or not self._kv.reserve(seq, num_tokens):
                raise RuntimeError(f"KV memory does not hold {count} sequences of {num_tokens} tokens")

    def prefill(self) -> StepLogits:
        """Run all prompts in one pass, less each one's last token."""
        found = self._runner.run(ScheduledBatch([ScheduledSequence(s, 0, len(s.token_ids) - 1) for s in self.seqs]))
        for seq in self.seqs:
            seq.num_computed = len(seq.token_ids) - 1
        return found

    def whole(self) -> StepLogits:
        """Run the first prompt whole, in one pass."""
        seq = self.seqs[0]
        return self._runner.run(ScheduledBatch([ScheduledSequence(seq, 0, len(seq.token_ids))]))

    def decode(self) -> StepLogits:
        """Run every sequence's last token; it writes the same keys to the same places each time."""
        items = [ScheduledSequence(seq, len(seq.token_ids) - 1, 1) for seq in self.seqs]
        return self._runner.run(ScheduledBatch(items))

    def release(self) -> None:
        """Give the memory back."""
        for seq in self.seqs:
            self._kv.release(seq)
