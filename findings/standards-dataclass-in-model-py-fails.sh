#!/usr/bin/env bash
# model-hosting-container-standards: a model.py with a dataclass and postponed annotations cannot be loaded.
#
# What happens: the customer's model.py is executed as a module that is not in `sys.modules`. `@dataclass` looks its
#   module up there as soon as an annotation is text, which `from __future__ import annotations` makes of all. The start
#   ends with AttributeError: 'NoneType' object has no attribute '__dict__'. Without either line the file loads.
# Expected instead: what `import model` does. The recipe in Python's documentation puts the module into `sys.modules`
#   before it is executed.
# Why it matters: both lines are common, the file is right, and the message names neither.
# What helps: move the dataclass to a module beside it and import that, or leave the first line out.
# Explained in: model-hosting-container-standards 0.1.16, common/custom_code_ref_resolver/file_loader.py,
#   `_load_regular_module`; Python 3.11, dataclasses.py, `_is_type`.
# Seen: 2026-12-01, model-hosting-container-standards 0.1.16, fastapi 0.165.0, Python 3.11, Linux x86-64.
#
# Output seen. The script compares these lines with what it gets:
#= a dataclass: answered
#= a dataclass, annotations postponed: AttributeError: 'NoneType' object has no attribute '__dict__'
#= no dataclass, annotations postponed: answered
#= a dataclass, annotations postponed, by `import model`: answered
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  model-hosting-container-standards==0.1.16 fastapi==0.165.0 starlette==1.10.0 pydantic==2.14.4 httpx==0.28.1

postponed='from __future__ import annotations'
dataclass='
from dataclasses import dataclass

@dataclass
class Reply:
    text: str
'
handler='
from fastapi import Request, Response

async def custom_sagemaker_invocation_handler(request: Request) -> Response:
    return Response("answered")
'
cat >"$work/serve.py" <<'PY'
import sys

from fastapi import FastAPI
from fastapi.testclient import TestClient
from model_hosting_container_standards import sagemaker

title, how = sys.argv[1:]
app = FastAPI()
try:
    if how == "import":
        sys.path.insert(0, ".")
        import model

        app.post("/invocations")(model.custom_sagemaker_invocation_handler)
    else:
        sagemaker.bootstrap(app)
    print(f"{title}: {TestClient(app).post('/invocations', json={}).text}")
except AttributeError as error:
    print(f"{title}: AttributeError: {error}")
PY

try_it() { # title, text of model.py, how it is loaded
  rm -rf "$work/model" && mkdir "$work/model" && printf '%s\n' "$2" >"$work/model/model.py"
  (cd "$work/model" && SAGEMAKER_MODEL_PATH="$work/model" "$work/venv/bin/python" -I "$work/serve.py" "$1" "$3") \
    2>"$work/log" | grep -v '^\[' >>"$work/seen" || { cat "$work/log" >&2; exit 1; }
}
try_it "a dataclass" "$dataclass$handler" standards
try_it "a dataclass, annotations postponed" "$postponed$dataclass$handler" standards
try_it "no dataclass, annotations postponed" "$postponed$handler" standards
try_it 'a dataclass, annotations postponed, by `import model`' "$postponed$dataclass$handler" import

cat "$work/seen"
sed -n 's/^#= //p' "$0" >"$work/expected"
diff "$work/expected" "$work/seen" || { echo "The behaviour has changed." >&2; exit 1; }
echo "As described."
