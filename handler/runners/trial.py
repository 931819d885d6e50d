"""`RunnerTrial`: a short life of three sequences on a runner, compared with the model run without any cache."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from handler.model.loader import LoadedModel
from handler.runners.runner import Runner
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence
from handler.scheduling.sequence import Sequence
from handler.seam.errors import UnsupportedModel
from handler.seam.protocol import GenerateRequest, SamplingParams

# Absolute and relative: an attention or a state that is wrong in kind is off by far more.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 6e-2, torch.float16: 2e-2}
# What a forward pass of a family that does not fit has been seen to raise.
_MODEL_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NotImplementedError),
    *(RuntimeError, TypeError, ValueError),
)
# Windows and chunks up to this are crossed by the trial; longer ones would make it slow.
_LONGEST_WINDOW = 64
# Tokens that each of the three texts decodes one by one after its prompt.
_NUM_DECODES = (5, 5, 2)


class RunnerTrial:
    """Three texts of different lengths and what the model, as it is set now, says to each of their tokens."""

    def __init__(self, loaded: LoadedModel, max_len: int) -> None:
        """Raises UnsupportedModel if the model does not run at all."""
        self._loaded = loaded
        long = min(max_len, max(14, _short_window(loaded.text_config) + 8))
        vocab = int(loaded.text_config.vocab_size)
        lengths = (long, 1 + 2 * long // 3, 1 + long // 2)
        self._texts = [[(7 * (i + first) + 3) % vocab for i in range(n)] for first, n in enumerate(lengths)]
        try:
            self._expected = [self._reference(text) for text in self._texts]
        except _MODEL_ERRORS as exc:
            raise UnsupportedModel(f"{loaded.model.config.model_type} does not run: {_one_line(exc)}") from exc

    @property
    def text(self) -> list[int]:
        """The longest of the texts."""
        return self._texts[0]

    def complaint(self, runner: Runner) -> str | None:
        """What is wrong with `runner`, or None. Slots 0 to 2 are used, and empty afterwards.

        The first prompt comes in chunks of 2, 1 and the rest; the second joins when the first decodes, the third when
        the second does, and leaves before both. The logits of every token are compared.
        """
        try:
            gap = self._largest_gap(runner)
        except _MODEL_ERRORS as exc:
            return _one_line(exc)
        finally:
            for slot in range(len(self._texts)):
                runner.forget(slot, 0)
        if gap <= TOLERANCE[self._loaded.dtype]:
            return None
        return f"logits differ from those of the model without a cache by {gap:.2g}, relative"

    @torch.inference_mode()
    def _reference(self, token_ids: list[int]) -> Tensor:
        """Float32 `[tokens, vocab]`."""
        tokens = torch.tensor([token_ids], device=self._loaded.device)
        logits: Tensor = self._loaded.model(input_ids=tokens, use_cache=False).logits[0]
        return logits.float()

    def _largest_gap(self, runner: Runner) -> float:
        first, second, third = lives = [_Life(slot, text) for slot, text in enumerate(self._texts)]
        worst = 0.0
        while any(life.left for life in lives):
            joined = [first, *([second] if first.decodes else ()), *([third] if second.decodes else ())]
            items = [life.next_item() for life in joined if life.left]
            found = runner.run(ScheduledBatch(items))
            for item, logits in zip(found.samples, found.logits, strict=True):
                worst = max(worst, self._gap(item, item.start + item.num_tokens - 1, logits[None]))
            for item, logits in found.prompt:
                worst = max(worst, self._gap(item, item.start, logits))
            for life in joined:
                life.advance()
        return worst

    def _gap(self, item: ScheduledSequence, start: int, logits: Tensor) -> float:
        """The largest difference to what is expected from position `start` on; NaN counts as infinite."""
        expected = self._expected[item.seq.slot][start : start + len(logits)]
        gap = float((logits.float() - expected).abs().max()) / max(1.0, float(expected.abs().max()))
        return float("inf") if math.isnan(gap) else gap


class _Life:
    """A sequence that is fed `text`: a prompt in chunks (in slot 0), then the last tokens one by one."""

    def __init__(self, slot: int, text: list[int]) -> None:
        num_prompt = max(1, len(text) - _NUM_DECODES[slot])
        sampling = SamplingParams(max_tokens=len(text), seed=0, num_prompt_logprobs=0)
        self.seq = Sequence(GenerateRequest(str(slot), text[:num_prompt], sampling, 1.0), b"", 0.0, 1.0, slot=slot)
        self._later = text[num_prompt:]
        self._chunks = [2, 1] if slot == 0 and num_prompt > 3 else []

    @property
    def left(self) -> bool:
        """True if there is a token to run."""
        return self.seq.num_uncomputed > 0

    @property
    def decodes(self) -> bool:
        """True once the prompt has been run."""
        return self.seq.num_computed >= self.seq.num_prompt_tokens

    def next_item(self) -> ScheduledSequence:
        """What the next step runs of it."""
        return ScheduledSequence(self.seq, self.seq.num_computed, self._next_size())

    def advance(self) -> None:
        """Record that the step ran what `next_item` said, and append the token that follows."""
        self.seq.num_computed += self._next_size()
        del self._chunks[:1]
        if not self.left:
            self.seq.token_ids += self._later[:1]
            del self._later[:1]

    def _next_size(self) -> int:
        return self._chunks[0] if self._chunks else self.seq.num_uncomputed


def _one_line(exc: Exception) -> str:
    return f"{type(exc).__name__}: {' '.join(str(exc).split())[:200]}"


def _short_window(text_config: Any) -> int:
    """The model's attention window or chunk if it is short, else 0."""
    found = (getattr(text_config, name, None) or 0 for name in ("sliding_window", "attention_chunk_size"))
    return max((window for window in found if 0 < window <= _LONGEST_WINDOW), default=0)
