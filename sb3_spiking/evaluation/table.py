"""Tables for the terminal and for docs."""

from collections.abc import Iterable, Sequence
from typing import Any


def markdown(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """
    :param columns: heads
    :param rows: their cells; numbers are rounded to four figures, None and NaN left out
    :return: a Markdown table with aligned columns, the first one to the left
    """
    cells = [list(columns), *([_cell(value) for value in row] for row in rows)]
    # A rule of less than two characters makes no table
    widths = [max(2, *(len(row[place]) for row in cells)) for place in range(len(columns))]
    aligned = [
        [
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in cells
    ]
    rule = ["-" * width if place == 0 else "-" * (width - 1) + ":" for place, width in enumerate(widths)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (aligned[0], rule, *aligned[1:]))


def _cell(value: Any) -> str:
    if value is None or value != value:
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
