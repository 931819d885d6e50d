"""As the engine does before anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from handler.kernels.compiler import use_cache_dir
from handler.linears.onednn_linear import keep_onednn_off_amx

keep_onednn_off_amx()


@pytest.fixture(scope="session", autouse=True)
def _kernels(kept: Path) -> None:
    use_cache_dir(kept)
