"""`python -m handler.download`: fetch the model that HF_MODEL_ID names, if it is a hub id, and check its files.

container/tgi_commands.py sets HF_MODEL_REVISION, HF_MODEL_TRUST_REMOTE_CODE (`true` or not) and CACHE_DIR.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from handler.model.location import locate
from handler.seam.config import EngineConfig
from handler.seam.errors import StartupError


def main(environ: Mapping[str, str]) -> int:
    """Print the directory of the model; return the exit code."""
    config = EngineConfig(
        model=environ.get("HF_MODEL_ID", ""),
        revision=environ.get("HF_MODEL_REVISION") or None,
        trust_remote_code=environ.get("HF_MODEL_TRUST_REMOTE_CODE", "") == "true",
        cache_dir=environ.get("CACHE_DIR", ""),
    )
    try:
        directory, _ = locate(config, lambda *_: None)
    except StartupError as exc:
        sys.stderr.write(f"{exc}\n")
        return exc.exit_code
    sys.stdout.write(f"{directory}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
