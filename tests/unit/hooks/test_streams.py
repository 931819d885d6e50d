"""Generators become streams, sync and async functions mix, and calls of a user's own model do not overlap."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

from container.hooks.model.caller import Caller, current_caller
from container.hooks.model.engine_model import EngineModel
from container.hooks.model.errors import CallEnded
from container.hooks.model.open_calls import OpenCalls, open_calls
from container.hooks.user_code.hook import HookAnswer, HookError
from tests.support.hooks import JSON, answer, loaded, request

CODE = "code/inference.py"
EVENTS = "text/event-stream"
MODEL = "def model_fn(d): return 'm'\n"


@pytest.mark.parametrize(
    "start",
    [
        "def predict_fn(data, model):",
        "async def predict_fn(data, model):",
        "def predict_fn(data, model): return parts()\nasync def parts():",
    ],
    ids=["sync", "async", "async in sync"],
)
@pytest.mark.parametrize(
    ("yielded", "accept", "expected"),
    [
        (["'a'", "'ü'"], None, ("text/plain; charset=utf-8", "aü".encode())),
        (["b'a'", "b'b'"], "*/*", ("application/octet-stream", b"ab")),
        (["'a'"], "text/x", ("text/x", b"a")),
        (["{'a': 1}", "[2]"], None, ("application/jsonlines", b'{"a":1}\n[2]\n')),
        (["{'a': 1}", "'data: x\\n\\n'"], EVENTS, (EVENTS, b'data: {"a":1}\n\ndata: x\n\n')),
        (["'one\\n'", "' two'", "{}"], EVENTS, (EVENTS, b"data: one\ndata: \n\ndata:  two\n\ndata: {}\n\n")),
        (["'data: x\\n'", "'\\n'", "'odd'"], EVENTS, (EVENTS, b"data: x\n\nodd")),
        (["'data: of a text'"], EVENTS, (EVENTS, b"data: data: of a text\n\n")),
        (["b'data: 1'", "b'\\n\\n'"], EVENTS, (EVENTS, b"data: 1\n\n")),
        (["b'\\x00'", "b'\\x01'"], EVENTS, ("application/octet-stream", b"\0\1")),
        ([], None, ("text/plain; charset=utf-8", b"")),
    ],
)
def test_a_generator_is_a_stream(
    tmp_path: Path, start: str, yielded: list[str], accept: str | None, expected: tuple[str, bytes]
) -> None:
    lines = "; ".join(f"yield {part}" for part in [*yielded])
    code = f"{start}\n    {lines or 'return; yield'}\n"
    found = answer(loaded(tmp_path, {CODE: MODEL + code}), request({}, JSON, accept))
    assert (found.content_type, found.body) == expected


@pytest.mark.parametrize(
    ("body", "accept", "expected"),
    [
        ({"stream": True}, None, EVENTS),
        ({"stream": True}, "*/*", EVENTS),
        ({"stream": True}, "application/jsonlines", "application/jsonlines"),
        ({"stream": False}, None, "application/jsonlines"),
        ({"parameters": {"stream": True}}, None, "application/jsonlines"),
        ('["stream"', None, "application/jsonlines"),
    ],
)
def test_a_body_that_asks_for_a_stream_gets_events(
    tmp_path: Path, body: Any, accept: str | None, expected: str
) -> None:
    """As TGI and OpenAI answer it; their clients read nothing else."""
    code = "def input_fn(b, c): return 1\ndef predict_fn(d, m): yield {'a': d}"
    found = answer(loaded(tmp_path, {CODE: MODEL + code}), request(body, JSON, accept))
    assert found.content_type == expected
    text = answer(loaded(tmp_path, {CODE: MODEL + code.replace("{'a': d}", "'a'")}), request(body, JSON, accept))
    assert text.content_type in ("text/plain; charset=utf-8", "application/jsonlines")


@pytest.mark.parametrize(
    ("returned", "accept", "expected"),
    [
        ("(iter([{'a': 1}, 'b']), 'text/event-stream')", None, (EVENTS, b'data: {"a":1}\n\ndata: b\n\n')),
        ("(iter([{'a': 1}]), 'application/jsonlines')", EVENTS, ("application/jsonlines", b'{"a":1}\n')),
        ("('whole\\r\\nanswer', 'text/event-stream')", None, (EVENTS, b"data: whole\ndata: answer\n\n")),
        ("'whole'", EVENTS, (EVENTS, b"data: whole\n\n")),
        ("b'whole'", EVENTS, ("application/octet-stream", b"whole")),
    ],
)
def test_a_type_decides_how_parts_are_framed(
    tmp_path: Path, returned: str, accept: str | None, expected: tuple[str, bytes]
) -> None:
    code = f"def predict_fn(d, m): return d\ndef output_fn(p, a): return {returned}"
    found = answer(loaded(tmp_path, {CODE: MODEL + code}), request({}, JSON, accept))
    assert (found.content_type, found.body) == expected


@pytest.mark.parametrize(
    "code",
    [
        "def predict_fn(d, m): return (str(i) for i in range(3)), 'text/x'",
        "def predict_fn(d, m): return map(str, range(3))\ndef output_fn(p, a): return p, 'text/x'",
        "def transform_fn(m, b, c, a):\n    for i in range(3): yield str(i)",
        "def predict_fn(d, m): return iter('012')\ndef output_fn(p, accept): yield from p",
        "async def numbers():\n    for i in range(3): yield str(i)\ndef predict_fn(d, m): return numbers()",
        "async def predict_fn(d, m): return (str(i) for i in range(3))",
    ],
)
def test_what_else_is_a_stream(tmp_path: Path, code: str) -> None:
    found = answer(loaded(tmp_path, {CODE: MODEL + code}), request({}, JSON, "text/x"))
    assert (found.content_type, found.body) == ("text/x", b"012")


def test_parts_come_one_by_one_and_a_failure_ends_them(tmp_path: Path) -> None:
    code = "seen = []\ndef predict_fn(d, m):\n    for i in range(9):\n        seen.append(i)\n        yield str(i)\n"
    code += "        if i == 1: raise ValueError('enough')\n"
    hook = loaded(tmp_path, {CODE: MODEL + code})
    result = hook.call(request({}))
    assert isinstance(result, HookAnswer)
    body = result.body
    assert isinstance(body, Iterator)
    assert [next(body), next(body)] == [b"0", b"1"]
    with pytest.raises(HookError, match="enough") as caught:
        next(body)
    assert caught.value.status == 400


def test_a_failure_before_the_first_part_has_a_status(tmp_path: Path) -> None:
    code = "def predict_fn(d, m):\n    raise ValueError('not today')\n    yield\n"
    with pytest.raises(HookError, match="not today"):
        loaded(tmp_path, {CODE: MODEL + code}).call(request({}))


@pytest.mark.parametrize("keyword", ["def", "async def", "async in sync"])
def test_a_stream_that_nobody_reads_is_closed(tmp_path: Path, keyword: str) -> None:
    start = f"{keyword} predict_fn(d, m):"
    if keyword == "async in sync":
        start = "def predict_fn(d, m): return parts(m)\nasync def parts(m):"
    code = f"closed = []\ndef model_fn(d): return closed\n{start}\n    try:\n"
    code += "        while True: yield 'a'\n    finally:\n        m.append(1)\n"
    hook = loaded(tmp_path, {CODE: code})

    async def one_part() -> None:
        called: Any = hook.call(request({}))
        body = (await called).body
        assert await anext(body) == b"a"
        await body.aclose()

    if keyword != "async def":
        result: Any = hook.call(request({}))
        assert next(result.body) == b"a"
        result.body.close()
    else:
        asyncio.run(one_part())
    assert hook._model == [1]  # type: ignore[attr-defined]


MIXED = {
    name: ("async def " if is_async else "def ") + body
    for is_async in (False, True)
    for name, body in {
        f"input {is_async}": "input_fn(body, t): return [1]",
        f"predict {is_async}": "predict_fn(data, m): return [*data, m]",
        f"output {is_async}": "output_fn(p, accept): return str(p)",
    }.items()
}


@pytest.mark.parametrize("chosen", range(8))
def test_sync_and_async_functions_mix(tmp_path: Path, chosen: int) -> None:
    flags = [bool(chosen & bit) for bit in (1, 2, 4)]
    code = "\n".join(MIXED[f"{name} {flag}"] for name, flag in zip(("input", "predict", "output"), flags, strict=True))
    hook = loaded(tmp_path, {CODE: MODEL + code})
    assert hook.is_async is any(flags)
    assert answer(hook, request({})).body == b"[1, 'm']"


@pytest.mark.parametrize(
    "code",
    [
        "async def work(): return 5\ndef predict_fn(d, m): return work()",
        "import functools\nasync def work(m, d, n): return 5\npredict_fn = functools.partial(work, 1)",
        "class Work:\n    async def __call__(self, d, m): return 5\npredict_fn = Work()",
        "class Work:\n    async def predict(self, d, m): return 5\npredict_fn = Work().predict",
        "async def model_fn(d): return 5\ndef predict_fn(d, m): return m",
    ],
)
def test_whatever_is_async_is_awaited(tmp_path: Path, code: str) -> None:
    assert answer(loaded(tmp_path, {CODE: MODEL + code}), request({})).body == b"5"


OVERLAP = """
    import threading
    inside, most = [], []
    {model}
    def step():
        inside.append(1)
        most.append(len(inside))
        {wait}
        inside.pop()
    def predict_fn(data, model):
        {body}
"""
BODIES = ["step(); return 1", "step(); yield 'a'; step(); yield 'b'"]


def overlap(hook: Any) -> int:
    """The most steps of `predict_fn` that ran at once, of four calls in four threads."""
    function = hook._functions["predict_fn"]._function
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: answer(hook, request(i)), range(4)))
    return int(max(getattr(function, "__wrapped__", function).__globals__["most"]))


@pytest.mark.parametrize("keyword", ["def", "async def"])
@pytest.mark.parametrize("body", BODIES)
def test_calls_of_ones_own_model_do_not_overlap(tmp_path: Path, body: str, keyword: str) -> None:
    code = OVERLAP.format(model="def model_fn(d): pass", wait="threading.Event().wait(0.005)", body=body)
    code += f"    {keyword} input_fn(body, content_type): return 1\n"
    assert overlap(loaded(tmp_path, {CODE: code})) == 1


@pytest.mark.parametrize("body", BODIES)
def test_calls_of_our_model_overlap(tmp_path: Path, body: str) -> None:
    code = OVERLAP.format(model="four = threading.Barrier(4)", wait="four.wait(60)", body=body)
    assert overlap(loaded(tmp_path, {CODE: code}, EngineModel("http://127.0.0.1:9"))) == 4


def test_a_stream_that_waits_for_its_client_holds_nobody_up(tmp_path: Path) -> None:
    hook = loaded(tmp_path, {CODE: MODEL + "def predict_fn(d, m):\n    yield 'a'\n    yield 'b'\n"})
    waits: Any = hook.call(request({}))
    assert next(waits.body) == b"a"
    assert answer(hook, request({})).body == b"ab"
    assert list(waits.body) == [b"b"]


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_small_pool_of_threads_blocks_no_stream(tmp_path: Path, num_threads: int) -> None:
    """The event loop's executor may have fewer threads than there are calls."""
    code = MODEL + "async def input_fn(b, t): return 1\ndef predict_fn(d, m):\n    yield 'a'\n    yield 'b'\n"
    hook = loaded(tmp_path, {CODE: code})

    async def whole() -> bytes:
        called: Any = hook.call(request({}))
        parts = (await called).body
        found = b""
        while (part := await asyncio.to_thread(next, parts, b"")) != b"":
            found += part
        return found

    async def many() -> list[bytes]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(num_threads))
        return list(await asyncio.gather(*(whole() for _ in range(8))))

    assert asyncio.run(many()) == [b"ab"] * 8


# ---- predict_fn_batch


BATCH = """
    import threading
    sizes, entered, gate = [], threading.Event(), threading.Event()
    MAX_BATCH_SIZE = 3
    {model}
    {keyword} predict_fn_batch(items, model{context}):
        sizes.append(len(items))
        if items == [0]:
            entered.set()
            {wait}
        {body}
"""


def batch_hook(directory: Path, keyword: str, body: str, model: str = "def model_fn(d): return 10") -> Any:
    wait = (
        "gate.wait(60)"
        if keyword == "def"
        else "import asyncio\n            while not gate.is_set(): await asyncio.sleep(0)"
    )
    code = BATCH.format(keyword=keyword, body=body, model=model, wait=wait, context=", context=None")
    return loaded(directory, {CODE: code})


def asked(hook: Any, items: list[Any]) -> tuple[list[Any], list[int]]:
    """Answers or errors of `items`, all sent while the first is computed, and the sizes of the batches."""
    module = _globals(hook)
    if hook.is_async:
        return asyncio.run(asyncio.wait_for(_asked(hook, items, module), 60)), module["sizes"]

    def ask(item: Any) -> Any:
        try:
            return json.loads(answer(hook, request(item)).body)
        except HookError as exc:
            return exc.status, exc.message

    with ThreadPoolExecutor(len(items)) as pool:
        first = pool.submit(ask, items[0])
        assert module["entered"].wait(60)
        others = [pool.submit(ask, item) for item in items[1:]]
        while len(hook._batcher._waiting) < len(items) - 1:
            threading.Event().wait(0.001)
        module["gate"].set()
        return [each.result() for each in (first, *others)], module["sizes"]


async def _asked(hook: Any, items: list[Any], module: dict[str, Any]) -> list[Any]:
    async def ask(item: Any) -> Any:
        try:
            return json.loads((await hook.call(request(item))).body)
        except HookError as exc:
            return exc.status, exc.message

    first = asyncio.ensure_future(ask(items[0]))
    while not module["entered"].is_set():
        await asyncio.sleep(0)
    others = [asyncio.ensure_future(ask(item)) for item in items[1:]]
    while len(hook._batcher._waiting) < len(items) - 1:
        await asyncio.sleep(0)
    module["gate"].set()
    return list(await asyncio.gather(first, *others))


def _globals(hook: Any) -> dict[str, Any]:
    function = hook._functions["predict_fn_batch"]._function
    found: dict[str, Any] = getattr(function, "__wrapped__", function).__globals__
    return found


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_requests_that_wait_are_one_batch(tmp_path: Path, keyword: str) -> None:
    hook = batch_hook(tmp_path, keyword, "return [item + model for item in items]")
    assert asked(hook, [0, 1, 2, 3, 4]) == ([10, 11, 12, 13, 14], [1, 3, 1])


@pytest.mark.parametrize("keyword", ["def", "async def"])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return [100 // (3 - item) for item in items]", (400, "integer division or modulo by zero")),
        ("return [ValueError('odd one') if i == 3 else 100 // (3 - i) for i in items]", (400, "odd one")),
        (
            "return [StopIteration('odd one') if i == 3 else 100 // (3 - i) for i in items]",
            (400, "StopIteration: odd one"),
        ),
    ],
)
def test_one_request_that_fails_fails_alone(
    tmp_path: Path, keyword: str, body: str, expected: Any, caplog: pytest.LogCaptureFixture
) -> None:
    answers, sizes = asked(batch_hook(tmp_path, keyword, body), [0, 2, 3, 1])
    assert answers == [33, 100, expected, 50]
    said = [record.message for record in caplog.records if record.exc_info]
    tried_alone = ["predict_fn_batch failed for 3 requests; each is tried alone"]
    assert (said, sizes) in [(tried_alone, [1, 3, 1, 1, 1]), ([], [1, 3])]


def test_a_batch_that_runs_out_of_memory_is_not_tried_again(tmp_path: Path) -> None:
    body = "if len(items) > 1: raise MemoryError\n        return items"
    answers, sizes = asked(batch_hook(tmp_path, "def", body), [0, 1, 2])
    assert (answers, sizes) == ([0, (400, "MemoryError"), (400, "MemoryError")], [1, 2])


def test_a_sync_request_that_nobody_waits_for_is_left_out_of_the_batch(tmp_path: Path) -> None:
    hook, calls = batch_hook(tmp_path, "def", "return items"), OpenCalls()
    module = _globals(hook)

    def leave() -> None:
        open_calls.set(calls)
        with pytest.raises(HookError) as caught:
            hook.call(request(1))
        assert isinstance(caught.value.__cause__, CallEnded)

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(hook.call, request(0))
        assert module["entered"].wait(60)
        others = [pool.submit(copy_context().run, leave), pool.submit(hook.call, request(2))]
        while len(hook._batcher._waiting) < 2:
            threading.Event().wait(0.001)
        calls.end()
        module["gate"].set()
        assert [first.result().body, others[1].result().body, others[0].result()] == [b"0", b"2", None]
    assert module["sizes"] == [1, 1]


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_a_batch_is_of_one_caller_for_whom_it_calls_the_model(tmp_path: Path, keyword: str) -> None:
    names = "from container.hooks.model.caller import current_caller"
    hook = batch_hook(tmp_path, keyword, f"{names}; return [current_caller.get().adapter] * len(items)")
    call = hook.call

    def of_caller(sent: Any) -> Any:
        current_caller.set(Caller("ab"[int(sent.body) % 2]))
        return call(sent)

    hook.call = of_caller
    answers, sizes = asked(hook, [0, 1, 2, 3, 4])
    assert answers == ["a", "b", "a", "b", "a"]
    assert sorted(sizes) == [1, 2, 2]


def test_a_batch_of_another_length_is_said(tmp_path: Path) -> None:
    answers, _ = asked(batch_hook(tmp_path, "def", "return items + [1]"), [0, 1, 2])
    assert answers[0] == (500, "predict_fn_batch returned 2 results for 1 requests")


def test_a_client_that_leaves_harms_no_other_of_its_batch(tmp_path: Path) -> None:
    hook = batch_hook(tmp_path, "async def", "return items")

    async def run() -> list[Any]:
        module = _globals(hook)
        leaver = asyncio.ensure_future(hook.call(request(0)))
        while not module["entered"].is_set():
            await asyncio.sleep(0)
        others = [asyncio.ensure_future(hook.call(request(item))) for item in (1, 2)]
        while len(hook._batcher._waiting) < 2:
            await asyncio.sleep(0)
        others[0].cancel()
        leaver.cancel()
        await asyncio.wait((others[0], leaver))
        module["gate"].set()
        return [(await others[1]).body]

    assert asyncio.run(run()) == [b"2"]


def test_predict_fn_batch_wins_over_predict_fn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """So that one file also runs where batches are not known."""
    code = MODEL + "def predict_fn(d, m): return 'one'\ndef predict_fn_batch(d, m): return ['batch'] * len(d)"
    assert answer(loaded(tmp_path, {CODE: code}), request({})).body == b'"batch"'
    assert "inference.py: predict_fn is never called, as predict_fn_batch takes its place" in caplog.text
