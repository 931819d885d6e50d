"""`python -m handler.download`: fetch what HF_MODEL_ID and SPECULATIVE_MODEL name on the hub, and check the files.

container/tgi_commands.py sets HF_MODEL_REVISION, HF_MODEL_TRUST_REMOTE_CODE (`true` or not) and CACHE_DIR.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from handler.model.draft.settings import locate_draft
from handler.model.location import locate
from handler.seam.config import EngineConfig
from handler.seam.errors import StartupError


def main(environ: Mapping[str, str]) -> int:
    """Print the directory of the model, and of the draft model if there is one; return the exit code."""
    config = EngineConfig(
        model=environ.get("HF_MODEL_ID", ""),
        revision=environ.get("HF_MODEL_REVISION") or None,
        draft_model=environ.get("SPECULATIVE_MODEL", ""),
        num_draft_tokens=1,
        trust_remote_code=environ.get("HF_MODEL_TRUST_REMOTE_CODE", "") == "true",
        cache_dir=environ.get("CACHE_DIR", ""),
    )
    try:
        draft_dir = locate_draft(config, lambda *_: None)
        directory, _ = locate(config, lambda *_: None)
    except StartupError as exc:
        sys.stderr.write(f"{exc}\n")
        return exc.exit_code
    sys.stdout.write("".join(f"{each}\n" for each in (directory, draft_dir) if each))
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
