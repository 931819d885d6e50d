#!/usr/bin/env bash
# sagemaker-inference: `Content-Type: application/json; charset=utf-8` is answered 500, plain `application/json` 200.
#
# What happens: a request whose media type has a parameter, as many HTTP clients send it, fails with status 500 and the
#   traceback as its body. The whole header is the key of the table of decoders, so the parameter makes it another type.
# Expected instead: parameters do not change the type (RFC 9110, section 8.3.1), and a type that is not read is the
#   client's error, 415.
# Why it matters: the same body works from one client and not from another, and the 500 counts as a fault of the model
#   (SageMaker's Invocation5XXErrors), so alarms and retries start. An `input_fn` of one's own gets bytes, not text,
#   under such a type.
# What helps: send the type without parameters, or define an `input_fn` that cuts them off.
# Explained in: not documented. sagemaker_inference/decoder.py: `_decoder_map[content_type]`; transformer.py:
#   `content_type in content_types.UTF8_TYPES`, and every error that is not the toolkit's own becomes 500.
# Seen: 2026-12-01, sagemaker-inference 1.10.1, Python 3.11, Linux x86-64. Does not depend on the processor.
#
# Output seen. The script compares these lines with what it gets:
#= sagemaker-inference 1.10.1
#= application/json: 200, [1, 2]
#= application/json; charset=utf-8: 500, Content type application/json; charset=utf-8 is not supported by this framework.
#= application/json; charset=utf-8, input_fn gets: bytes
#= application/json, input_fn gets: str
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check sagemaker-inference==1.10.1
mkdir -p "$work/plain/model/code" "$work/own/model/code"
cat >"$work/plain/model/code/inference.py" <<'PY'
def model_fn(model_dir):
    return None


def predict_fn(data, model):
    return data
PY
cat - "$work/plain/model/code/inference.py" >"$work/own/model/code/inference.py" <<'PY'
def input_fn(body, content_type):
    return type(body).__name__


PY

cat >"$work/ask.py" <<'PY'
"""Ask the toolkit's Transformer as its model server does, which hands it the headers and takes the status."""

import sys
from importlib.metadata import version
from types import SimpleNamespace

from sagemaker_inference.environment import code_dir, model_dir
from sagemaker_inference.transformer import Transformer

sys.path.insert(0, code_dir)


def ask(content_type: str) -> tuple[int, str]:
    """Status and first line of the answer to `[1, 2]`."""
    status = [200]
    context = SimpleNamespace(
        system_properties={"model_dir": model_dir},
        request_processor=[SimpleNamespace(get_request_properties=lambda: {"Content-Type": content_type})],
        set_response_status=lambda code, phrase: status.append(code),
        set_response_content_type=lambda index, value: None,
    )
    (body,) = Transformer().transform([{"body": b"[1, 2]"}], context)
    return status[-1], body.splitlines()[0]


if sys.argv[1] == "plain":
    print("sagemaker-inference", version("sagemaker-inference"))
    for content_type in ("application/json", "application/json; charset=utf-8"):
        status, line = ask(content_type)
        print(f"{content_type}: {status}, {line}")
else:
    for content_type in ("application/json; charset=utf-8", "application/json"):
        _, line = ask(content_type)
        print(f"{content_type}, input_fn gets: {line.strip(chr(34))}")
PY

for case in plain own; do
    SAGEMAKER_BASE_DIR="$work/$case" "$work/venv/bin/python" -I "$work/ask.py" "$case"
done >"$work/seen"

cat "$work/seen"
sed -n 's/^#= //p' "$0" >"$work/expected"
diff "$work/expected" "$work/seen" || { echo "The behaviour has changed." >&2; exit 1; }
echo "As described."
