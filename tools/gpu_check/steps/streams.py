"""The engine end to end: streams of 512 tokens in and 128 out, through its socket, scheduler and sampler."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from tools.gpu_check import expected
from tools.gpu_check.client import Answer, Client
from tools.gpu_check.lines import Line, check, fact
from tools.gpu_check.models import build, choose, serve_config, sizes_8b
from tools.gpu_check.rows import new_sequence
from tools.gpu_check.setting import Setting
from tools.gpu_check.steps.graphs import shim_seconds

_STREAMS = (1, 8, 32, 128)
_ASKED: dict[str, dict[str, Any]] = {"greedy": {}, "top_p": {"temperature": 0.8, "top_p": 0.9}}


def streams(setting: Setting) -> Iterator[Line]:
    """Tokens a second over all streams while all decode, and what a prompt beside them costs."""
    given, wanted, most = setting.pick(512, 40), setting.pick(128, 4), setting.pick(_STREAMS[-1], 3)
    length = given + wanted
    config = serve_config(setting, max_model_len=length, max_num_seqs=most, kv_capacity_tokens=most * (length + 256))
    runner, limits, board = choose(config, build("llama", sizes_8b(setting)))
    client = Client(config, runner, limits, board)
    yield fact("runner", runner.name)
    for asked, count in ((asked, count) for asked in _ASKED for count in sorted({min(n, most) for n in _STREAMS})):
        prompts = [new_sequence(i, given, runner.vocab_size).token_ids for i in range(count)]
        answers = [client.submit(ids, max_tokens=wanted, **_ASKED[asked]) for ids in prompts]
        seconds = client.run()
        wrong = [one.error for one in answers if len(one.token_ids) != wanted]
        yield check(f"{asked}: all streams end", wrong, [], streams=count)
        step = _step_seconds(answers) - shim_seconds(setting, runner, count, length)
        details = {"streams": count, "first_token_s": round(_last_first(answers), 3), "whole_s": round(seconds, 2)}
        details["mixed_step_ms"] = round(1e3 * _longest_gap(answers), 1)
        rate = count / max(step, 1e-9)
        yield setting.speed(asked, rate, "tokens/s", expected.STREAM_TOKENS_S.get(count), **details)
    client.close()


def _last_first(answers: list[Answer]) -> float:
    """Seconds from the first token of all to the last stream's first token: the prefill of the others."""
    firsts = [answer.times_s[0] for answer in answers]
    return max(firsts) - min(firsts)


def _step_seconds(answers: list[Answer]) -> float:
    """Mean seconds of a step while every stream decodes."""
    start, end = max(answer.times_s[0] for answer in answers), min(answer.times_s[-1] for answer in answers)
    times = [time for time in answers[-1].times_s if start <= time <= end]
    return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else end - start


def _longest_gap(answers: list[Answer]) -> float:
    """The longest wait of a stream for its next token: a step that holds a prompt too."""
    return max(later - earlier for answer in answers for earlier, later in pairwise(answer.times_s))
