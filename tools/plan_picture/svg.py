"""Lines of text as a picture of a terminal: plain SVG text, so that it can be searched and copied."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
_ADVANCE, _LEADING, _MARGIN = 8.4, 19, 20  # of a 14 px monospaced font


def terminal(lines: Sequence[str], columns: int) -> str:
    """Return the picture, with room for `columns` characters in a line.

    `textLength` sets each line's width, so that it fits whatever font a reader has.
    """
    width, height = round(columns * _ADVANCE + 2 * _MARGIN), len(lines) * _LEADING + 2 * _MARGIN
    rows = [_row(line, number) for number, line in enumerate(lines) if line.strip()]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="{_FONT}" font-size="14" fill="#d8dee9">'
    )
    return "\n".join([head, f'<rect width="{width}" height="{height}" rx="8" fill="#1c2128"/>', *rows, "</svg>", ""])


def _row(line: str, number: int) -> str:
    """A line from its first letter on; headings and the command, which begin at the margin, are bright."""
    text = line.strip()
    x = _MARGIN + (len(line) - len(line.lstrip())) * _ADVANCE
    y = _MARGIN + (number + 0.75) * _LEADING
    bright = "" if line.startswith(" ") else ' fill="#ffffff" font-weight="bold"'
    length = f'textLength="{len(text) * _ADVANCE:.1f}" lengthAdjust="spacingAndGlyphs"'
    return f'<text x="{x:.1f}" y="{y:.2f}" xml:space="preserve" {length}{bright}>{escape(text, quote=False)}</text>'
