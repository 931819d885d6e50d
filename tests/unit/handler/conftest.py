"""As the engine does before anything else."""

from __future__ import annotations

from handler.dense_linear import keep_rows_apart

keep_rows_apart()
