"""As the engine does before anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from handler.dense_linear import keep_rows_apart
from handler.native.compiler import keep_in

keep_rows_apart()


@pytest.fixture(scope="session", autouse=True)
def _kernels(kept: Path) -> None:
    keep_in(kept)
