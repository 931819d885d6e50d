"""Write `docs/reliability.md` again: `python -m tools.scoreboard`."""

from __future__ import annotations

from tools.scoreboard.page import PAGE, page
from tools.scoreboard.record import read


def main() -> None:
    """From the record as it is."""
    PAGE.write_text(page(read()), "utf-8")


if __name__ == "__main__":
    main()
