#!/usr/bin/env bash
# huggingface_hub: a stream breaks off when its InferenceClient is no longer referenced.
#
# What happens: `InferenceClient(url).text_generation(prompt, stream=True)`, written in one line and then read, raises
#   httpx2.StreamClosed at the first token. The client holds the open response in its ExitStack; nothing else refers to
#   the client, so Python frees it, and with it the response.
# Expected instead: the iterator that is handed out keeps alive what it reads from, as a response of `requests` does.
#   The same line without `stream=True` works, so it looks as if the server had closed the connection.
# Why it matters: the one-line call is what pages and chats show, and adding `stream=True` to it is the usual next step.
#   It is the server that is then suspected.
# What helps: keep the client in a variable until the stream is read.
# Explained in: not documented.
# Seen: 2026-11-30, huggingface_hub 2.4.0, Python 3.11, Linux x86-64. It needs Python's reference counting (CPython).
#
# Output seen. The script compares these lines with what it gets:
#= huggingface_hub 2.4.0
#= client in a variable: one two
#= client in no variable: StreamClosed
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check huggingface_hub==2.4.0

"$work/venv/bin/python" -I - >"$work/seen" <<'PY'
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import huggingface_hub
from huggingface_hub import InferenceClient


class Tokens(BaseHTTPRequestHandler):
    """Answers every POST with two tokens as TGI streams them."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for i, text in enumerate(("one", " two")):
            token = {"id": i, "text": text, "logprob": -1.0, "special": False}
            self.wfile.write(b"data:" + json.dumps({"index": i, "token": token}).encode() + b"\n\n")

    def log_message(self, *_: object) -> None:
        pass


server = HTTPServer(("127.0.0.1", 0), Tokens)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"

print(f"huggingface_hub {huggingface_hub.__version__}")
client = InferenceClient(url)
print("client in a variable:", "".join(client.text_generation("count", stream=True)))
try:
    found = "".join(InferenceClient(url).text_generation("count", stream=True))
except Exception as exc:
    found = type(exc).__name__
print("client in no variable:", found)
server.shutdown()
PY

cat "$work/seen"
sed -n 's/^#= //p' "$0" >"$work/expected"
diff "$work/expected" "$work/seen" || { echo "The behaviour has changed." >&2; exit 1; }
echo "As described."
