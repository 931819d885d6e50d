"""As the engine does before anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from handler.kernels.compiler import keep_in
from handler.linears.onednn_linear import keep_onednn_off_amx

keep_onednn_off_amx()


@pytest.fixture(scope="session", autouse=True)
def _kernels(kept: Path) -> None:
    keep_in(kept)
