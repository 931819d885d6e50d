"""A stand-in for the Hugging Face Hub: JSON documents by path, over HTTP."""

from __future__ import annotations

import http.server
import json
from collections.abc import Mapping
from typing import Any

from tools.local_server import LocalServer

# Qwen/Qwen3-8B as published: its config.json, and the total of its safetensors index.
QWEN3_8B_CONFIG: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 4096,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 12288,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
    "max_position_embeddings": 40960,
    "torch_dtype": "bfloat16",
}
QWEN3_8B = {
    "/Qwen/Qwen3-8B/resolve/main/config.json": QWEN3_8B_CONFIG,
    "/Qwen/Qwen3-8B/resolve/main/model.safetensors.index.json": {"metadata": {"total_size": 16381470720}},
}


class StandInHub(LocalServer):
    """Serves `files` on a free port of this machine; an integer as a file is the status it is refused with.

    `seen` holds (path, Authorization header or None) of every request.
    """

    def __init__(self, files: Mapping[str, Any]) -> None:
        self.files = dict(files)
        self.seen: list[tuple[str, str | None]] = []
        super().__init__(_handler(self))


def _handler(hub: StandInHub) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.seen.append((self.path, self.headers.get("Authorization")))
            found = hub.files.get(self.path, 404)
            if isinstance(found, str):  # an address to go on to
                self.send_response(307)
                self.send_header("Location", found)
                self.end_headers()
                return
            self.send_response(found if isinstance(found, int) else 200)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
