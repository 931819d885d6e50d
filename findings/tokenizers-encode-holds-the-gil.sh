#!/usr/bin/env bash
# tokenizers: `encode(text)` holds Python's GIL until it returns; `encode_batch([text])` releases it.
#
# What happens: while one thread runs `encode` on a long text, no other Python thread runs. With `encode_batch` on a
#   list of that one text, for the same ids, the other threads go on.
# Expected instead: both methods release the GIL, since both spend their time in Rust and touch no Python object.
# Why it matters: moving `encode` to a thread pool does not keep a server responsive. Health checks, other connections
#   and timers of the process stop for as long as the text takes, which is seconds for a few megabytes.
# What helps: `encode_batch([text])[0]` in the thread.
# Explained in: tokenizers, bindings/python/src/tokenizer.rs: `encode_batch` runs inside `py.detach`, `encode` does not.
#   The documentation does not mention it.
# Seen: 2026-11-30, tokenizers 0.23.3, Python 3.11 (a build with a GIL), Linux x86-64, two cores. Does not depend on the
#   processor. The times, on stderr, do.
#
# Output seen. The script compares these lines with what it gets:
#= tokenizers 0.23.3
#= same ids: True
#= encode: the other thread stands still
#= encode_batch: the other thread runs
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check tokenizers==0.23.3

"$work/venv/bin/python" -I - >"$work/seen" <<'PY'
import sys
import threading
import time
from collections.abc import Callable

import tokenizers
from tokenizers import Tokenizer, models, pre_tokenizers

letters = "abcdefgh"
vocabulary = {letter: index for index, letter in enumerate(letters)} | {"ab": len(letters)}
tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b")]))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
text = f"{letters} " * 150_000

wakes: list[float] = []
done = threading.Event()


def other_thread() -> None:
    """Note the time once a millisecond."""
    while not done.wait(0.001):
        wakes.append(time.perf_counter())


def longest_stop(work: Callable[[], object]) -> float:
    """Share of the call's time in which the other thread did not run once."""
    time.sleep(0.1)
    start = time.perf_counter()
    work()
    end = time.perf_counter()
    times = [start, *(wake for wake in list(wakes) if start < wake < end), end]
    gap = max(later - earlier for earlier, later in zip(times, times[1:]))
    print(f"{end - start:.2f} s, longest stop {gap:.2f} s", file=sys.stderr)
    return gap / (end - start)


print(f"tokenizers {tokenizers.__version__}")
print("same ids:", tokenizer.encode(text).ids == tokenizer.encode_batch([text])[0].ids)
thread = threading.Thread(target=other_thread)
thread.start()
calls = {"encode": lambda: tokenizer.encode(text), "encode_batch": lambda: tokenizer.encode_batch([text])}
for name, call in calls.items():
    print(f"{name}: the other thread {'stands still' if longest_stop(call) > 0.7 else 'runs'}")
done.set()
thread.join()
PY

cat "$work/seen"
sed -n 's/^#= //p' "$0" >"$work/expected"
diff "$work/expected" "$work/seen" || { echo "The behaviour has changed." >&2; exit 1; }
echo "As described."
