"""The start-up trial: a script of sequences (`play.py`) on a runner, compared with the model's own eager attention.

Where KV memory has 8 bits, eager attention reads keys and values that are rounded alike.
"""

from __future__ import annotations

import enum
import inspect
import math
from typing import Any

import torch
from torch import Tensor

from handler.model.loader import LoadedModel
from handler.runners.attention import ATTENTION_NAME, UnsupportedAttention
from handler.runners.limits import Limits
from handler.runners.own_noise import NO_NOISE, Noise, own_noise, relative_gaps, rounds_inputs
from handler.runners.play import MAX_SCORED, NUM_DECODES, Play
from handler.runners.rounding_cache import RoundingCache
from handler.runners.runner import Runner
from handler.seam.errors import UnsupportedModel, one_line
from model_memory.weight_counts import has_experts

# Largest difference of a row's logits, relative to the row's largest (at least 1): of the median row. An attention or
# a state that is wrong in kind is off by far more.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 6e-2, torch.float16: 2e-2}
# Of any row. In half precision stock SDPA is itself off from eager attention by 0.07 in one row of 60 (tiny random
# Llama, bfloat16, torch 2.13).
_ROW_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1.5e-1, torch.float16: 5e-2}
# A tolerance is at least this multiple of the model's own noise, up to the widest: a wrong kind is off by more.
_NOISE_FACTOR, _WIDEST = 1.5, 0.35
# What a forward pass of a family that does not fit has been seen to raise.
MODEL_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NotImplementedError),
    *(RuntimeError, TypeError, UnsupportedAttention, ValueError),
)
# Widens tolerances: the next code of an 8-bit float is up to 1/8 (3 bits of fraction) or 1/4 (2 bits) away, of int8
# 1/127 of the head's largest number.
_STEP_FACTOR = {torch.float8_e4m3fn: 1.5, torch.float8_e5m2: 2.0}
# Longest attention window that the script crosses, in pages; longer ones would make the start slow.
_LONGEST_WINDOW_PAGES = 4
# Tokens of the two shorter texts of a model without windows; with windows, shares of the long text.
_SHORT = (9, 7)
_SHARES = (0.67, 0.5)
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
            self._expected = [*self._references(self._texts[:1]), *self._references(self._texts[1:])]
        except MODEL_ERRORS as exc:
            raise UnsupportedModel(f"{loaded.model.config.model_type} does not run: {_described(exc)}") from exc
        finally:
            loaded.model.set_attn_implementation(self._own_attention)
        self._noise = self._measured() if rounds_inputs(loaded) else NO_NOISE

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

    def _measured(self) -> Noise:
        """The model's own noise over the texts all of whose rows are known; none if it runs in one way only."""
        known = [i for i, text in enumerate(self._texts) if len(self._expected[i]) == len(text)]
        try:
            return own_noise(self._loaded, [self._texts[i] for i in known], [self._expected[i] for i in known])
        except MODEL_ERRORS:
            return NO_NOISE

    def _windows(self) -> list[int]:
        """The model's attention windows and chunks that the script can afford to cross, in tokens."""
        config, longest = self._loaded.text_config, _LONGEST_WINDOW_PAGES * self._limits.page_size
        found = (getattr(config, name, None) or 0 for name in ("sliding_window", "attention_chunk_size"))
        return [each for each in found if 0 < each <= longest]

    def _references(self, texts: list[list[int]]) -> list[Tensor]:
        """Float32 `[rows, vocab]` of each text: all rows of short ones, the last few of a longer one."""
        longest = max(map(len, texts))
        if longest > MAX_SCORED:
            return [self._logits([text], NUM_DECODES[0] + 1)[0] for text in texts]
        # One batch. A shorter text is continued with zeros, which changes none of its own rows.
        padded = [text + [0] * (longest - len(text)) for text in texts]
        return [rows[: len(text)] for rows, text in zip(self._logits(padded, longest), texts, strict=True)]

    @torch.inference_mode()
    def _logits(self, batch: list[list[int]], keep: int) -> Tensor:
        """Eager logits, float32 `[batch, keep, vocab]`, of the last `keep` tokens; texts have one length."""
        model = self._loaded.model
        options: dict[str, Any] = (
            {"logits_to_keep": keep} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
        )
        tokens = torch.tensor(batch, device=self._loaded.device)
        codes = self._loaded.kv_codes
        if codes is not None:
            options["past_key_values"] = RoundingCache(codes)
        logits: Tensor = model(input_ids=tokens, use_cache=codes is not None, **options).logits
        return logits[:, -keep:].float()


def compare(expected: Tensor, got: Tensor, loaded: LoadedModel, noise: Noise = NO_NOISE) -> str | None:
    """What is wrong with the rows `got` `[rows, vocab]`, or None: by how much they are off, relative.

    The median row and every single row have a tolerance, which the model's own `noise` widens. Of models that route
    tokens to experts, in half precision, only the median counts: a close call of the router may go either way and
    changes one row by a lot.
    """
    gaps = relative_gaps(expected, got)
    median, worst = float(gaps.median()), float(gaps.max())
    kind, factor = precision(loaded), 1.0 if loaded.kv_codes is None else _STEP_FACTOR.get(loaded.kv_codes, 1.0)
    lenient = kind is not torch.float32 and _routes(loaded.text_config) and math.isfinite(worst)
    row_tolerance = _widened(factor * _ROW_TOLERANCE[kind], noise.worst)
    if median <= _widened(factor * TOLERANCE[kind], noise.median) and (lenient or worst <= row_tolerance):
        return None
    return f"off by {worst:.2g}, relative; the median row by {median:.2g}"


def _widened(tolerance: float, noise: float) -> float:
    return max(tolerance, min(_NOISE_FACTOR * noise, _WIDEST))


def attention_of(loaded: LoadedModel) -> dict[str, str]:
    """The attention of the model and of each model inside it, as `set_attn_implementation` takes it."""
    config = loaded.model.config
    parts = {"": config} | {name: getattr(config, name, None) for name in config.sub_configs}
    found = {name: getattr(part, "_attn_implementation", None) for name, part in parts.items()}
    return {name: attention for name, attention in found.items() if attention is not None}


def precision(loaded: LoadedModel) -> torch.dtype:
    """The dtype whose tolerance holds. Layers that round their inputs to 8 bits, and bitsandbytes' 4-bit ones, which
    compute in bfloat16 on CPU (0.50), round more than float32 or float16 does; keys and values in 8 bits too, where one
    that is a last bit off gets the next code."""
    coarse = loaded.kv_codes is not None or rounds_inputs(loaded) or loaded.quantize.startswith("bitsandbytes")
    return torch.bfloat16 if coarse else loaded.dtype


def _described(exc: Exception) -> str:
    return f"{type(exc).__name__}: {one_line(exc, 200)}"


def _routes(text_config: Any) -> bool:
    """True if the model is a mixture of experts."""
    return has_experts(text_config.to_dict())
