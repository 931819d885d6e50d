"""`python -m tools.scoreboard`: regenerates `docs/reliability.md`."""

from __future__ import annotations

from tools.scoreboard.page import PAGE, page
from tools.scoreboard.record import read


def main() -> None:
    """Write the page from the current record."""
    PAGE.write_text(page(read()), "utf-8")


if __name__ == "__main__":
    main()
