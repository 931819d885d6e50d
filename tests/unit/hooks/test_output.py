"""What a hook writes becomes lines of the log, whatever it does to logging and to its streams."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from container.hooks.host.output import LogStream

ROOT = Path(__file__).parents[3]

PROGRAM = """
import faulthandler, logging, logging.config, subprocess, sys
from container.hooks.host.output import capture_output, end_lines, keep_own_loggers, request_id
from handler.seam.logs import configure_logging

configure_logging("hook", level=logging.INFO, as_json=True)
capture_output()
root = logging.getLogger()
root.addHandler(logging.StreamHandler(sys.stdout))
request_id.set("r-1")
root.warning("both")
logging.config.dictConfig({
    "version": 1,
    "handlers": {"mine": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"}},
    "root": {"level": "WARNING", "handlers": ["mine"]},
})
logging.disable(logging.INFO)
keep_own_loggers()
print("printed")
root.warning("logged")
logging.getLogger("container.hooks").error("ours")
sys.stdout.reconfigure(line_buffering=True, errors="replace")
sys.stdout.buffer.write("begun ü"[:-1].encode() + b"\\xc3")
sys.stdout.buffer.write(b"\\xbc\\n")
print("x" * 4500)
faulthandler.enable()
print("no break", end="", file=sys.stderr)
sys.stdout.buffer.write(b"cut \\xc3")
end_lines()
subprocess.run([sys.executable, "-c", "print('child')"], stdout=sys.stdout, check=True)
"""


def test_no_line_is_lost_and_none_comes_back() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    out = "hook.stdout"
    assert [(line["target"], line["message"]) for line in lines] == [
        ("root", "both"),
        (out, "both"),
        (out, "printed"),
        (out, "logged"),
        (out, "ours"),
        (out, "begun ü"),
        *((out, "x" * length) for length in (2000, 2000, 500)),
        (out, "cut \N{REPLACEMENT CHARACTER}"),
        ("hook.stderr", "no break"),
    ]
    assert {line["request_id"] for line in lines} == {"r-1"}
    assert done.stdout == "child\n"


def test_a_thread_that_fails_is_one_record() -> None:
    program = """
import logging, sys, threading
from container.hooks.host.output import capture_output
from handler.seam.logs import configure_logging
configure_logging("hook", level=logging.INFO, as_json=True)
capture_output()
def fail():
    raise ValueError("lost")
for target in (fail, sys.exit):
    thread = threading.Thread(target=target, name="mine")
    thread.start()
    thread.join()
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    (line,) = map(json.loads, done.stderr.splitlines())
    assert (line["level"], line["message"]) == ("ERROR", "a thread of the hook's code failed: mine")
    assert "ValueError: lost" in line["exception"]


def test_a_handler_that_fails_does_not_log_its_own_traceback_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    closed, real = io.StringIO(), io.StringIO()
    closed.close()
    stream = LogStream("hook.stderr", [logging.StreamHandler(closed)], real)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(logging, "raiseExceptions", True)
    stream.write("a line\n")
    assert "ValueError: I/O operation on closed file" in real.getvalue()
