"""Runs commands of the helper as a user does; `out` and `err` hold what the last one wrote."""

from __future__ import annotations

import io
import json
from typing import Any

from rich.console import Console

from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.cli.console import Output
from sagemaker_deploy.cli.main import main


class Shell:
    """`clients` replace the real ones; without them the command makes its own, and finds no account."""

    def __init__(self, clients: Clients | None = None) -> None:
        self._clients = clients
        self.out = self.err = ""

    def __call__(self, *words: str) -> int:
        out, err = io.StringIO(), io.StringIO()
        output = Output(Console(file=out, soft_wrap=True, highlight=False), Console(file=err, width=300))
        status = main(words, clients=(lambda _: self._clients) if self._clients else None, output=output)
        self.out, self.err = out.getvalue(), err.getvalue()
        return status

    @property
    def json(self) -> Any:
        return json.loads(self.out)
