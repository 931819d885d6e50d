"""On the PYTHONPATH of a server under test: each of its processes writes down what none of them may do.

Unpickling, asking a name server, and calling anybody outside of this machine. PID 1 asks /ping on the loopback
address. The file is AUDIT_LOG; the first line of every interpreter says that it is watched.
"""

import os
import sys

_LOOPBACK = ("127.", "::1", "localhost")


def _write(what: str) -> None:
    file = os.open(os.environ["AUDIT_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{os.getpid()} {what}\n".encode())
    os.close(file)


def _watch(event: str, args: tuple[object, ...]) -> None:
    if event == "pickle.find_class":
        _write(f"unpickles {args[0]}.{args[1]}")
    elif event == "socket.connect" and isinstance(args[1], tuple) and not str(args[1][0]).startswith(_LOOPBACK):
        _write(f"connects to {args[1]}")
    elif event in {"socket.getaddrinfo", "socket.gethostbyname"} and not str(args[0]).startswith(_LOOPBACK):
        _write(f"asks for {args[0]!r}")


if "AUDIT_LOG" in os.environ:
    _write("starts")
    sys.addaudithook(_watch)
