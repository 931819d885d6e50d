"""Every operation of the OpenAPI document, met with requests made from it: all of schemathesis' checks.

SCHEMATHESIS_CASES=500 .venv/bin/python -m pytest tests/contract/documents/test_schemathesis.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.documents.conftest import QuickServer

CASES = os.environ.get("SCHEMATHESIS_CASES", "8")


@pytest.mark.timeout(3600)
def test_schemathesis(quick_server: QuickServer, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{quick_server.url}/api-doc/openapi.json",
        "--checks", "all", "--max-examples", CASES, "--phases", "examples,coverage,fuzzing", "--workers", "2",
        "--seed", "1", "--generation-database", "none", "--exclude-path-regex", "^/docs|^/v1",
        "--max-response-time", "10",
    ]  # fmt: skip
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-12000:] + run.stderr[-2000:]
