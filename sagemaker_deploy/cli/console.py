"""The output of the command line: progress on standard error, results on standard output."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.status import Status
from rich.table import Table

from sagemaker_deploy.checking.contract import Finding
from sagemaker_deploy.errors import DeployError, EndpointFailed


class RichProgress:
    """Implements `Progress`. Between enter and exit the last status is a live line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status = console.status("")

    def __enter__(self) -> Self:
        self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.stop()

    def step(self, text: str) -> None:
        self._console.print(f"[green]✓[/green] {_plain(text)}")

    def status(self, text: str) -> None:
        """On a terminal, replace the last status; otherwise print each one."""
        if self._console.is_terminal:
            self._status.update(_plain(text))
        else:
            self._console.print(_plain(text))

    def warn(self, text: str) -> None:
        self._console.print(f"[bold yellow]WARNING[/bold yellow] {_plain(text)}")


class Output:
    """The output of a command: `err` is for people, `out` may be read by programs."""

    def __init__(self, out: Console | None = None, err: Console | None = None) -> None:
        self.out = out or Console(soft_wrap=True, highlight=False)
        self.err = err or Console(stderr=True, highlight=False)

    def progress(self) -> RichProgress:
        return RichProgress(self.err)

    def line(self, text: str) -> None:
        self.out.print(text, markup=False, emoji=False)

    def piece(self, text: str) -> None:
        """Print at once, without a line ending."""
        self.out.print(text, end="", markup=False, emoji=False)

    def json(self, value: Any) -> None:
        self.out.print(json.dumps(value, indent=2, ensure_ascii=False, default=str), markup=False, emoji=False)

    def warnings(self, texts: Iterable[str]) -> None:
        for text in texts:
            RichProgress(self.err).warn(text)

    def findings(self, findings: Sequence[Finding]) -> None:
        table = Table("", "rule", "seen")
        for finding in findings:
            mark = "[green]ok[/green]" if finding.ok else "[bold red]broken[/bold red]"
            table.add_row(mark, _plain(finding.rule), _plain(finding.detail))
        self.out.print(table)

    def error(self, error: DeployError) -> None:
        """Show the message, the container's last log lines, and the remedy."""
        self.err.print(f"[bold red]error[/bold red] {_plain(str(error))}")
        if isinstance(error, EndpointFailed) and error.log_lines:
            self.err.print("last log lines:")
            for line in error.log_lines:
                self.err.print(f"  {line}", markup=False, emoji=False)
        if error.remedy:
            self.err.print(f"[bold]remedy[/bold] {_plain(error.remedy)}")


def _plain(text: str) -> str:
    """Escape square brackets, which rich would take for markup."""
    return text.replace("[", r"\[")
