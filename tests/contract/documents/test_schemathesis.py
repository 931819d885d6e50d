"""Every operation of the OpenAPI document, met with requests made from it: all of schemathesis' checks.

`make fuzz` sends 500 cases to each operation; `make test` a few.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.documents.conftest import QuickServer
from tests.support.server import ROOT

CASES = os.environ.get("SCHEMATHESIS_CASES", "2")


@pytest.mark.timeout(3600)
def test_schemathesis(quick_server: QuickServer, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{quick_server.url}/api-doc/openapi.json",
        "--checks", "all", "--max-examples", CASES, "--phases", "examples,coverage,fuzzing", "--workers", "1",
        "--seed", "1", "--generation-database", "none", "--max-response-time", "60",
    ]  # fmt: skip
    environ = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.contract.documents.unsayable", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-60000:] + run.stderr[-2000:]
