#!/usr/bin/env bash
# model-hosting-container-standards under FastAPI 0.137 and newer: a user's own handler is found, logged, and never runs.
#
# What happens: `bootstrap(app)` mounts the customer's `custom_sagemaker_invocation_handler` in place of the server's own
#   /invocations, which it removes first. It looks for that route among `app.routes`. Since FastAPI 0.137 a route that
#   came through `include_router` is not in that list any more, but inside an object for the router: it is not removed,
#   it comes first, and it answers. No warning: the log says that there was no conflict and that the router is included.
# Expected instead: the customer's handler answers, as under older versions and for a route of the application itself.
# Why it matters: servers put their routes on routers. The customer's model.py is silently ignored, by the version of a
#   package that the customer does not see; fastapi is not pinned by this one.
# What helps: fastapi below 0.137.
# Explained in: model-hosting-container-standards 0.1.16, common/fastapi/routing.py: `check_route_conflicts` and
#   `remove_conflicting_routes` take `APIRoute` objects of `app.router.routes` alone; FastAPI's release notes, 0.137.0.
# Seen: 2026-12-01, model-hosting-container-standards 0.1.16, fastapi 0.136.0, 0.137.0 and 0.165.0, Python 3.11, Linux
#   x86-64.
#
# Output seen. The script compares these lines with what it gets:
#= fastapi 0.136.0: route of the application: the customer's handler; of an included router: the customer's handler
#= fastapi 0.165.0: route of the application: the customer's handler; of an included router: the server's handler
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/model"
cat >"$work/model/model.py" <<'PY'
from fastapi import Request, Response


async def custom_sagemaker_invocation_handler(request: Request) -> Response:
    return Response("the customer's handler")
PY

cat >"$work/serve.py" <<'PY'
import fastapi
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.testclient import TestClient
from model_hosting_container_standards import sagemaker


async def invocations(request: Request) -> Response:
    return Response("the server's handler")


def answer(included: bool) -> str:
    app, router = FastAPI(), APIRouter()
    (router if included else app).post("/invocations")(invocations)
    app.include_router(router)
    sagemaker.bootstrap(app)
    return TestClient(app).post("/invocations", json={}).text


own, of_router = answer(included=False), answer(included=True)
print(f"fastapi {fastapi.__version__}: route of the application: {own}; of an included router: {of_router}")
PY

for fastapi in 0.136.0 0.165.0; do
  python3 -m venv "$work/venv-$fastapi"
  "$work/venv-$fastapi/bin/python" -m pip install --quiet --disable-pip-version-check \
    model-hosting-container-standards==0.1.16 fastapi=="$fastapi" httpx==0.28.1
  SAGEMAKER_MODEL_PATH="$work/model" "$work/venv-$fastapi/bin/python" -I "$work/serve.py" 2>"$work/log" |
    grep '^fastapi' >>"$work/seen" || { cat "$work/log" >&2; exit 1; }
done

cat "$work/seen"
sed -n 's/^#= //p' "$0" >"$work/expected"
diff "$work/expected" "$work/seen" || { echo "The behaviour has changed." >&2; exit 1; }
echo "As described."
