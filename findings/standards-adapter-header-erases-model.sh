#!/usr/bin/env bash
# model-hosting-container-standards: a request without the adapter header loses its own `model`.
#
# What happens: `inject_adapter_id("model")` puts the header X-Amzn-SageMaker-Adapter-Identifier into the body's `model`.
#   If a request has no such header, null is put there, over what the client wrote. A client that names an adapter in
#   the body, as OpenAI's API and vLLM have it, is then answered by the base model, with status 200.
# Expected instead: the body stays as it is. The decorator's own mode `append=True` does just that.
# Why it matters: vLLM's /invocations is wrapped so. The same body gives the adapter's answer at /v1/chat/completions and
#   the base model's at /invocations, and nobody is told.
# What helps: send the header, always.
# Explained in: model-hosting-container-standards 0.1.16, sagemaker/lora/transforms/inject_to_body.py: `set_value` runs
#   for every replacing path, whatever was found.
# Seen: 2026-12-01, model-hosting-container-standards 0.1.16, fastapi 0.165.0, Python 3.11, Linux x86-64.
#
# Output seen. The script compares these lines with what it gets:
#= model-hosting-container-standards 0.1.16
#= replace, header 'sales': {"model":"sales","n":1}
#= replace, no header: {"model":null,"n":1}
#= append, header 'sales': {"model":"support:sales","n":1}
#= append, no header: {"model":"support","n":1}
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  model-hosting-container-standards==0.1.16 fastapi==0.165.0 starlette==1.10.0 pydantic==2.14.4 httpx==0.28.1

"$work/venv/bin/python" -I - >"$work/seen" 2>"$work/log" <<'PY' || { cat "$work/log" >&2; exit 1; }
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from model_hosting_container_standards import sagemaker

print(f"model-hosting-container-standards {version('model-hosting-container-standards')}")
app = FastAPI()


async def echo(raw_request: Request) -> JSONResponse:
    return JSONResponse(await raw_request.json())


for mode, options in (("replace", {}), ("append", {"append": True, "separator": ":"})):
    app.post(f"/{mode}")(sagemaker.inject_adapter_id("model", **options)(echo))
client = TestClient(app)
for mode in ("replace", "append"):
    for title, headers in (("header 'sales'", {"X-Amzn-SageMaker-Adapter-Identifier": "sales"}), ("no header", {})):
        answer = client.post(f"/{mode}", json={"model": "support", "n": 1}, headers=headers)
        assert answer.status_code == 200, answer.text
        print(f"{mode}, {title}: {answer.text}")
PY

sed -i '/^\[/d' "$work/seen"
cat "$work/seen"
sed -n 's/^#= //p' "$0" >"$work/expected"
diff "$work/expected" "$work/seen" || { echo "The behaviour has changed." >&2; exit 1; }
echo "As described."
