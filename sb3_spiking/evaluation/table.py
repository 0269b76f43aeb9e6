"""Tables for the terminal and for docs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sb3_spiking.evaluation import statistics
from sb3_spiking.evaluation.statistics import Estimate, Runs


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


def over_runs(methods: Mapping[str, Runs], reference: str, random: Mapping[str, float]) -> str:
    """
    :param methods: scores of each method's runs, by game
    :param reference: method whose mean is 100%
    :param random: score of random play, which is 0%, by game
    :return: a Markdown table of the methods that have every game of the reference, "" without any
    """
    rows = []
    for method, runs in methods.items():
        if method != reference and set(runs) == set(methods[reference]):
            counts = [len(each) for each in runs.values()]
            fewest_to_most = " to ".join(map(str, sorted({min(counts), max(counts)})))
            mean = statistics.interquartile(runs, methods[reference], random)
            better = statistics.improvement(runs, methods[reference])
            above = len(statistics.normalised(runs, methods[reference], random))  # games where the reference beats random play
            of_all = f", {above} of {len(runs)} games" if 0 < above < len(runs) else ""
            rows.append((method, fewest_to_most, _percent(mean) + of_all, _percent(better)))
    columns = ("", "runs a game", f"interquartile mean, % of {reference}", f"better than {reference}")
    return markdown(columns, rows) if rows else ""


def _percent(estimate: Estimate) -> str:
    interval = estimate.interval
    if estimate.value != estimate.value:
        return ""
    return f"{estimate.value:.0%}" + ("" if interval is None else f" ({interval[0]:.0%} to {interval[1]:.0%})")


def _cell(value: Any) -> str:
    if value is None or value != value:
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
