"""Write the picture, or with `--check` end with 1 if it is not what the command prints now."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from sagemaker_deploy.cli.console import Output
from sagemaker_deploy.cli.main import main as run
from sagemaker_deploy.cli.page import WIDTH
from tools.plan_picture.hub import QWEN3_8B, StandInHub
from tools.plan_picture.svg import terminal

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "plan.svg"
WORDS = ("plan", "Qwen/Qwen3-8B")


def draw() -> str:
    """Return the picture of what the real command prints, where only the Hub can be reached."""
    text = io.StringIO()
    output = Output(Console(file=text, soft_wrap=True, highlight=False))
    with StandInHub(QWEN3_8B) as hub, _environment(HF_ENDPOINT=hub.url, AWS_EC2_METADATA_DISABLED="true"):
        status = run(WORDS, output=output)
    if status:
        raise RuntimeError(f"{' '.join(WORDS)} ended with {status}")
    return terminal([f"$ sagemaker-deploy {' '.join(WORDS)}", "", *text.getvalue().splitlines()], WIDTH)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Only these of the variables that the command reads: no account, no region, no token."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(("AWS_", "HF_", "HUGGING_FACE_"))]:
        del os.environ[name]
    os.environ.update(variables, AWS_CONFIG_FILE=os.devnull, AWS_SHARED_CREDENTIALS_FILE=os.devnull)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def main(argv: Sequence[str]) -> int:
    picture = draw()
    if "--check" in argv:
        return 0 if PICTURE.is_file() and PICTURE.read_text() == picture else 1
    PICTURE.write_text(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
