#!/usr/bin/env bash
# A ZeroMQ socket's file descriptor stops being readable after a send, although a message is waiting.
#
# What happens: `socket.getsockopt(zmq.FD)` is meant for event loops. A message arrives and the descriptor becomes
#   readable. If the program sends on the same socket before it receives, the descriptor goes quiet: poll() reports
#   nothing, and the message stays in the queue.
# Expected instead: as with a TCP socket, the descriptor stays readable until the message is received. A send does not
#   touch what can be read.
# Why it matters: a server that watches the descriptor and sends from another task waits for ever for a reply that it
#   already has. It recovers at the next message, so the symptom is a rare, unexplained stall under load.
# What helps: receive until `zmq.Again` after every send, or look at `zmq.EVENTS`, as the manual says.
# Explained in: libzmq 4.3.5, doc/zmq_getsockopt.adoc, ZMQ_FD, second note ("edge-triggered"; "after calling zmq_send
#   the socket may become readable without triggering a read event on the file descriptor").
# Seen: 2026-11-30, pyzmq 27.3.0 with libzmq 4.3.5, Python 3.11, Linux x86-64. Does not depend on the processor.
#
# Output seen. The script compares these lines with what it gets:
#= pyzmq 27.3.0, libzmq 4.3.5
#= message arrives: descriptor readable
#= one second later: descriptor readable, message in the queue
#= received: b'first'
#= message arrives: descriptor readable
#= after a send: descriptor quiet, message in the queue
#= received: b'second'
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check pyzmq==27.3.0

"$work/venv/bin/python" -I - "$work" >"$work/seen" <<'PY'
import select
import sys
import time

import zmq

print(f"pyzmq {zmq.__version__}, libzmq {zmq.zmq_version()}")
context = zmq.Context()
server = context.socket(zmq.ROUTER)
server.bind(f"ipc://{sys.argv[1]}/socket")
client = context.socket(zmq.DEALER)
client.connect(f"ipc://{sys.argv[1]}/socket")
descriptor = select.poll()
descriptor.register(client.getsockopt(zmq.FD), select.POLLIN)


def state(wait_ms: int) -> str:
    return "descriptor readable" if descriptor.poll(wait_ms) else "descriptor quiet"


def queue() -> str:
    return "message in the queue" if client.getsockopt(zmq.EVENTS) & zmq.POLLIN else "queue empty"


def receive_all() -> list[bytes]:
    found = []
    while True:
        try:
            found.append(client.recv(zmq.NOBLOCK))
        except zmq.Again:
            return found


client.send(b"hello")
peer, _ = server.recv_multipart()
time.sleep(0.5)  # the connection's own events
receive_all()

server.send_multipart([peer, b"first"])
print(f"message arrives: {state(10_000)}")
time.sleep(1)
print(f"one second later: {state(1_000)}, {queue()}")
print("received:", *receive_all())

server.send_multipart([peer, b"second"])
print(f"message arrives: {state(10_000)}")
client.send(b"anything")
print(f"after a send: {state(1_000)}, {queue()}")
print("received:", *receive_all())

context.destroy(linger=0)
PY

cat "$work/seen"
sed -n 's/^#= //p' "$0" >"$work/expected"
diff "$work/expected" "$work/seen" || { echo "The behaviour has changed." >&2; exit 1; }
echo "As described."
