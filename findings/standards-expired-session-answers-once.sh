#!/usr/bin/env bash
# model-hosting-container-standards: the first request of a session that has expired is answered, the second is refused.
#
# What happens: with stateful sessions, a request names its session in X-Amzn-SageMaker-Session-Id. After the session's
#   end the first such request gets 200, as if the session lived, although its files are deleted at that moment. The next
#   one gets 400 "session not found".
# Expected instead: 400 for both.
# Why it matters: the server answers a turn whose history is gone. A client that keeps its history with the server learns
#   it one answer too late.
# What helps: a handler that looks the session up once more, or clients that count the time themselves.
# Explained in: model-hosting-container-standards 0.1.16, sagemaker/sessions/manager.py: `get_session` returns None for an
#   expired session and for no session at all, and raises for an unknown one; sagemaker/sessions/transform.py asks only
#   whether it raised.
# Seen: 2026-12-01, model-hosting-container-standards 0.1.16, fastapi 0.165.0, Python 3.11, Linux x86-64.
#
# Output seen. The script compares these lines with what it gets:
#= model-hosting-container-standards 0.1.16
#= new session: 200
#= while it lives: 200 "answered"
#= after its end, first request: 200 "answered"
#= after its end, second request: 400 {"detail":"Bad request: session not found: ID"}
#= an unknown session: 400 {"detail":"Bad request: session not found: ID"}
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  model-hosting-container-standards==0.1.16 fastapi==0.165.0 starlette==1.10.0 pydantic==2.14.4 httpx==0.28.1

export SAGEMAKER_ENABLE_STATEFUL_SESSIONS=true SAGEMAKER_SESSIONS_EXPIRATION=1 SAGEMAKER_SESSIONS_PATH="$work/sessions"
"$work/venv/bin/python" -I - >"$work/seen" 2>"$work/log" <<'PY' || { cat "$work/log" >&2; exit 1; }
import time
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from model_hosting_container_standards import sagemaker

print(f"model-hosting-container-standards {version('model-hosting-container-standards')}")
app = FastAPI()


@app.post("/invocations")
@sagemaker.stateful_session_manager()
async def invocations(raw_request: Request) -> JSONResponse:
    return JSONResponse("answered")


client = TestClient(app)
opened = client.post("/invocations", json={"requestType": "NEW_SESSION"})
print(f"new session: {opened.status_code}")
session = opened.headers["X-Amzn-SageMaker-New-Session-Id"].partition(";")[0]


def ask(title: str, name: str = session) -> None:
    answer = client.post("/invocations", json={"inputs": "a"}, headers={"X-Amzn-SageMaker-Session-Id": name})
    print(f"{title}: {answer.status_code} {answer.text.replace(name, 'ID')}")


ask("while it lives")
time.sleep(2)
ask("after its end, first request")
ask("after its end, second request")
ask("an unknown session", "3f2c7a52-0000-4000-8000-000000000000")
PY

sed -i '/^\[/d' "$work/seen"
cat "$work/seen"
sed -n 's/^#= //p' "$0" >"$work/expected"
diff "$work/expected" "$work/seen" || { echo "The behaviour has changed." >&2; exit 1; }
echo "As described."
