"""The start-up trial: a short script of sequences on a runner, compared with the model's own eager attention.

One script serves every runner. A long prompt comes in chunks, a second sequence joins while the first prefills, a third
while the second decodes; the third leaves early, the first is preempted and computed again. Memory is the runner's own
`KVManager`, so block tables, prefix reuse and slot reuse take part.
"""

from __future__ import annotations

import enum
import inspect
import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from handler.model.loader import LoadedModel
from handler.runners.attention import ATTENTION_NAME, UnsupportedAttention
from handler.runners.limits import Limits
from handler.runners.runner import Runner
from handler.scheduling.kv_manager import KVManager
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence
from handler.scheduling.sequence import Sequence
from handler.seam.config import Quantize
from handler.seam.errors import UnsupportedModel, one_line
from handler.seam.protocol import GenerateRequest, SamplingParams

# Largest difference of a row's logits, relative to the row's largest (at least 1): of the median row. An attention or
# a state that is wrong in kind is off by far more.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 6e-2, torch.float16: 2e-2}
# Of any row. In half precision stock SDPA is itself off from eager attention by 0.07 in one row of 60 (tiny random
# Llama, bfloat16, torch 2.13).
_ROW_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1.5e-1, torch.float16: 5e-2}
# What a forward pass of a family that does not fit has been seen to raise.
MODEL_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NotImplementedError),
    *(RuntimeError, TypeError, UnsupportedAttention, ValueError),
)
# Longest attention window that the script crosses, in pages; longer ones would make the start slow.
_LONGEST_WINDOW_PAGES = 4
# If the longest text has at most this many tokens, all logits are compared, else only those that choose a token: a row
# takes 1 MB in float32 with a vocabulary of 262,144.
_MAX_SCORED = 128
# Tokens of the two shorter texts of a model without windows; with windows, shares of the long text.
_SHORT = (9, 7)
_SHARES = (0.67, 0.5)
# Tokens that each sequence decodes one by one after its prompt, and after how many of them the first is preempted.
_NUM_DECODES = (5, 4, 2)
_PREEMPTED_AFTER = 2
# Tokens of the long text beyond a page or a window.
_BEYOND = 8


class Verdict(enum.IntEnum):
    """The number `self_test` of the status board."""

    NOT_RUN = 0
    PASSED = 1
    FELL_BACK = 2


class Trial:
    """Three texts, one of them long, and the model's eager logits for them.

    `text` is the longest. Play the script as often as there are ways to run the model.
    """

    def __init__(self, loaded: LoadedModel, limits: Limits) -> None:
        """`limits` are those of the runners to be tried. Raises UnsupportedModel if the model does not run at all."""
        self._loaded, self._limits = loaded, limits
        self._own_attention = attention_of(loaded)
        long = min(max([limits.page_size, *self._windows()]) + _BEYOND, limits.max_model_len)
        short = (int(share * long) for share in _SHARES) if self._windows() else _SHORT
        lengths = (long, *(min(long, max(n, least)) for n, least in zip(short, _SHORT, strict=True)))
        vocab = int(loaded.text_config.vocab_size)
        self._texts = [[(7 * (i + first) + 3) % vocab for i in range(n)] for first, n in enumerate(lengths)]
        try:
            loaded.model.set_attn_implementation("eager")
            self._expected = self._all_references()
            self._noise = self._own_noise()
        except MODEL_ERRORS as exc:
            raise UnsupportedModel(f"{loaded.model.config.model_type} does not run: {_described(exc)}") from exc
        finally:
            loaded.model.set_attn_implementation(self._own_attention)

    @property
    def text(self) -> list[int]:
        """Token ids of the longest text."""
        return self._texts[0]

    def prove(self, runner: Runner) -> None:
        """Raise UnsupportedModel unless `runner` computes the model with the engine's attention.

        Leaves the model set to the engine's attention, or to its own after a failure.
        """
        model, layers = self._loaded.model, int(self._loaded.text_config.num_hidden_layers)
        try:
            model.set_attn_implementation(ATTENTION_NAME)
            found = self.difference(runner)
        except MODEL_ERRORS as exc:
            found = _described(exc)
        if found is None and runner.num_attention_calls != layers:
            found = f"it calls the engine's attention in {runner.num_attention_calls} of {layers} layers"
        if found is not None:
            model.set_attn_implementation(self._own_attention)
            raise UnsupportedModel(f"{model.config.model_type} over {runner.name}: {found}")

    def difference(self, runner: Runner) -> str | None:
        """What is wrong with `runner` as it is now, or None. Its memory is free again afterwards."""
        try:
            return self._compared(self.play(runner))
        except MODEL_ERRORS as exc:
            return _described(exc)

    @torch.inference_mode()
    def play(self, runner: Runner) -> Play:
        """The script, run on `runner`. Raises what the model raises."""
        play = Play(runner, runner.kv_manager(self._limits), self._texts, self._limits.max_num_seqs)
        try:
            play.run()
        finally:
            play.leave()
        return play

    def _compared(self, play: Play) -> str | None:
        """The first rows that are off. Prompt rows and decoded ones are judged apart: either kind may be wrong."""
        for kind, rows_of in (("prompt", play.prompt_rows), ("decode", play.decode_rows)):
            for index, rows in sorted(rows_of.items()):
                expected = torch.stack([self._row(index, position) for position, _ in rows])
                found = compare(expected, torch.stack([row for _, row in rows]), self._loaded, self._noise)
                if found is not None:
                    return f"logits differ from eager attention: sequence {index}, {kind} rows, {found}"
        return None

    def _row(self, index: int, position: int) -> Tensor:
        """Eager logits after the token at `position`."""
        return self._expected[index][position - len(self._texts[index])]

    def _windows(self) -> list[int]:
        """The model's attention windows and chunks that the script can afford to cross, in tokens."""
        config, longest = self._loaded.text_config, _LONGEST_WINDOW_PAGES * self._limits.page_size
        found = (getattr(config, name, None) or 0 for name in ("sliding_window", "attention_chunk_size"))
        return [each for each in found if 0 < each <= longest]

    def _all_references(self) -> list[Tensor]:
        """`_references` of every text, the long one by itself."""
        return [*self._references(self._texts[:1]), *self._references(self._texts[1:])]

    def _own_noise(self) -> tuple[float, float]:
        """How far two right attentions, eager and SDPA, lie apart in the median row and in the worst; 0 but for int8.

        int8 rounds each row of activations by its largest value, so the least difference grows from layer to layer:
        0.07 in the median row of SmolLM2-135M.
        """
        if self._loaded.quantize != Quantize.INT8:
            return 0.0, 0.0
        try:
            self._loaded.model.set_attn_implementation("sdpa")
        except ValueError:
            return 0.0, 0.0
        pairs = zip(self._expected, self._all_references(), strict=True)
        gaps = torch.cat([_gaps(expected, found) for expected, found in pairs])
        return float(gaps.median()), float(gaps.max())

    def _references(self, texts: list[list[int]]) -> list[Tensor]:
        """Float32 `[rows, vocab]` of each text: all rows of short ones, the last few of a longer one."""
        longest = max(map(len, texts))
        if longest > _MAX_SCORED:
            return [self._logits([text], _NUM_DECODES[0] + 1)[0] for text in texts]
        # One batch. A shorter text is continued with zeros, which changes none of its own rows.
        padded = [text + [0] * (longest - len(text)) for text in texts]
        return [rows[: len(text)] for rows, text in zip(self._logits(padded, longest), texts, strict=True)]

    @torch.inference_mode()
    def _logits(self, batch: list[list[int]], keep: int) -> Tensor:
        """Eager logits, float32 `[batch, keep, vocab]`, of the last `keep` tokens; texts have one length."""
        model = self._loaded.model
        options = {"logits_to_keep": keep} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
        tokens = torch.tensor(batch, device=self._loaded.device)
        logits: Tensor = model(input_ids=tokens, use_cache=False, **options).logits
        return logits[:, -keep:].float()


def compare(expected: Tensor, got: Tensor, loaded: LoadedModel, noise: tuple[float, float] = (0.0, 0.0)) -> str | None:
    """What is wrong with the rows `got` `[rows, vocab]`, or None: by how much they are off, relative.

    The median row and every single row have a tolerance. Of models that route tokens to experts, in half precision,
    only the median counts: a close call of the router may go either way and changes one row by a lot. Twice the
    model's own `noise` (median row, worst row) is always tolerated.
    """
    gaps = _gaps(expected, got)
    median, worst = float(gaps.median()), float(gaps.max())
    precision = _precision(loaded)
    lenient = precision is not torch.float32 and _routes(loaded.text_config) and math.isfinite(worst)
    median_limit = max(TOLERANCE[precision], 2 * noise[0])
    worst_limit = max(_ROW_TOLERANCE[precision], 2 * noise[1])
    if median <= median_limit and (lenient or worst <= worst_limit):
        return None
    return f"off by {worst:.2g}, relative; the median row by {median:.2g}"


def _gaps(expected: Tensor, got: Tensor) -> Tensor:
    """The largest difference in each row, relative to the row's largest logit; infinite where a number is none."""
    return ((expected - got).abs().amax(-1) / expected.abs().amax(-1).clamp(min=1.0)).nan_to_num(float("inf"))


class Play:
    """The script, run once on a runner. Rows are `(position, float32 [vocab])` by sequence."""

    def __init__(self, runner: Runner, kv: KVManager, texts: list[list[int]], max_num_seqs: int) -> None:
        self.prompt_rows: dict[int, list[tuple[int, Tensor]]] = defaultdict(list)
        self.decode_rows: dict[int, list[tuple[int, Tensor]]] = defaultdict(list)
        self._runner, self._kv, self._max_num_seqs = runner, kv, max_num_seqs
        is_scored = max(map(len, texts)) <= _MAX_SCORED
        self._roles = [_Role(index, text, is_scored) for index, text in enumerate(texts)]
        self._running: list[_Role] = []

    def run(self) -> None:
        """Until every sequence has run to the end of its text. Sequences for which memory is short wait."""
        waiting = list(self._roles)
        while waiting or self._running:
            while waiting and self._joins(waiting[0]):
                self._running.append(waiting.pop(0))
            waiting = self._step() + waiting

    def leave(self) -> None:
        """Give all memory back."""
        for role in self._running:
            self._kv.release(role.seq)
        self._running = []

    def _joins(self, role: _Role) -> bool:
        """Each sequence joins once the one before it has begun; the third, once the second decodes."""
        if role.pause and self._running:
            role.pause -= 1
            return False
        before = self._roles[role.index - 1] if role.index else None
        if before is not None and before in self._running and not before.has_begun(decoding=role.index == 2):
            return False
        return len(self._running) < self._max_num_seqs and self._kv.allocate(role.seq)

    def _step(self) -> list[_Role]:
        """One pass over all running sequences; returns those that were preempted before or after it."""
        preempted = self._make_room()
        self._record([role.next_item() for role in self._running])
        for role in list(self._running):
            role.advance()
            self._kv.commit(role.seq)
            if role.is_done:
                self._running.remove(role)
                self._kv.release(role.seq)
            elif role.is_to_be_preempted:
                self._preempt(role)
                preempted.append(role)
        return preempted

    def _make_room(self) -> list[_Role]:
        """Reserve memory for the step; where it is short, the newest sequence is preempted."""
        preempted: list[_Role] = []
        for role in list(self._running):
            while role in self._running and not self._kv.reserve(role.seq, role.next_end):
                preempted.append(self._running[-1])
                self._preempt(self._running[-1])
        if not self._running:
            raise RuntimeError("KV memory does not hold one sequence")
        return preempted

    def _preempt(self, role: _Role) -> None:
        self._running.remove(role)
        self._kv.release(role.seq)
        role.go_back()

    def _record(self, items: list[ScheduledSequence]) -> None:
        found = self._runner.run(ScheduledBatch(items))
        # The next pass may overwrite the logits of this one.
        for item, row in zip(found.samples, found.logits, strict=True):
            end = item.start + item.num_tokens - 1
            self.decode_rows[int(item.seq.request_id)].append((end, row.to(torch.float32, copy=True)))
        for item, rows in found.prompt:
            numbered = enumerate(rows.to(torch.float32, copy=True), item.start)
            self.prompt_rows[int(item.seq.request_id)] += numbered


@dataclass(eq=False)
class _Role:
    """One sequence of the script: a prompt, in chunks for the first, then the rest of its text token by token."""

    index: int
    text: list[int]
    is_scored: bool
    seq: Sequence = field(init=False)
    pause: int = 0
    is_back: bool = False

    def __post_init__(self) -> None:
        num_prompt = max(1, len(self.text) - _NUM_DECODES[self.index])
        scored = 0 if self.is_scored else None
        sampling = SamplingParams(max_tokens=len(self.text), seed=0, num_prompt_logprobs=scored)
        self.seq = Sequence(GenerateRequest(str(self.index), self.text[:num_prompt], sampling, 1.0), b"", 0.0, 1.0)
        self._chunks = [2, 1] if self.index == 0 and num_prompt > 3 else []

    def has_begun(self, decoding: bool) -> bool:
        """True once a chunk, or with `decoding` the whole prompt, has been run."""
        return self.seq.num_computed >= (self.seq.num_prompt_tokens if decoding else 1)

    @property
    def is_done(self) -> bool:
        """True once the whole text has been run."""
        return self.seq.num_computed >= len(self.text)

    @property
    def is_to_be_preempted(self) -> bool:
        """True at the one moment at which the script takes the first sequence's memory away."""
        return self.index == 0 and not self.is_back and self.seq.num_output_tokens > _PREEMPTED_AFTER

    @property
    def next_end(self) -> int:
        """Tokens computed after the next step."""
        size = self._chunks[0] if self._chunks else self.seq.num_uncomputed
        return self.seq.num_computed + size

    def next_item(self) -> ScheduledSequence:
        """What the next step runs of it."""
        return ScheduledSequence(self.seq, self.seq.num_computed, self.next_end - self.seq.num_computed)

    def advance(self) -> None:
        """Record that the step ran `next_item`, and append the token that follows in the text."""
        self.seq.num_computed = self.next_end
        del self._chunks[:1]
        if self.seq.num_uncomputed == 0:
            self.seq.token_ids = self.text[: len(self.seq.token_ids) + 1]

    def go_back(self) -> None:
        """Preempted: after one step without it, all of it is computed again, less what prefix reuse has."""
        self.seq.num_computed, self.seq.num_preemptions = 0, self.seq.num_preemptions + 1
        self._chunks, self.pause, self.is_back = [], 1, True


def attention_of(loaded: LoadedModel) -> dict[str, str]:
    """The attention of the model and of each model inside it, as `set_attn_implementation` takes it."""
    config = loaded.model.config
    parts = {"": config} | {name: getattr(config, name, None) for name in config.sub_configs}
    found = {name: getattr(part, "_attn_implementation", None) for name, part in parts.items()}
    return {name: attention for name, attention in found.items() if attention is not None}


def _precision(loaded: LoadedModel) -> torch.dtype:
    """The dtype whose tolerance holds. bitsandbytes' kernels round more than float32 does, whatever the dtype: its
    4-bit ones compute in bfloat16 on CPU (0.50)."""
    by_bitsandbytes = loaded.quantize.startswith("bitsandbytes") and loaded.dtype is torch.float32
    return torch.bfloat16 if by_bitsandbytes else loaded.dtype


def _described(exc: Exception) -> str:
    return f"{type(exc).__name__}: {one_line(exc, 200)}"


def _routes(text_config: Any) -> bool:
    """True if the model is a mixture of experts."""
    names = ("num_experts_per_tok", "num_experts", "num_local_experts", "n_routed_experts", "moe_k")
    return any(getattr(text_config, name, None) for name in names)
