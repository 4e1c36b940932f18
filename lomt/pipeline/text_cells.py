"""Cells of a run's tables, and lines made of them."""

from collections.abc import Sequence

from lomt.tasks import MetricInfo

__all__ = ["aligned", "change", "label", "shown", "with_changes"]


def label(info: MetricInfo, *, is_primary: bool) -> str:
    """Name a metric with its unit and direction; a star marks a task's primary one."""
    unit = f" ({info.unit})" if info.unit else ""
    arrow = "higher" if info.higher_is_better else "lower"
    return f"{'*' if is_primary else ' '} {info.name}{unit}, {arrow} is better"


def with_changes(values: Sequence[float | None], *, shows_change: bool = True) -> tuple[str, ...]:
    """Show the first value, then each further one with its change against the first; nothing for what is unknown."""
    first, *others = values
    cells = [shown(first)]
    for value in others:
        if first is None or value is None or not shows_change:
            cells += [shown(value), ""]
        else:
            cells += [shown(value), change(first, value)]
    return tuple(cells)


def shown(value: float | None) -> str:
    """Show four digits, and nothing for what is unknown."""
    return "" if value is None else f"{value:.4g}"


def change(before: float, after: float) -> str:
    """Show the relative change; nothing where it has no meaning."""
    return f"{(after - before) / abs(before):+.1%}" if before else ""


def aligned(rows: Sequence[Sequence[str]], left: Sequence[int] = (0, 1, 2)) -> list[str]:
    """Pad cells to columns.

    Args:
        rows: Equally long.
        left: Columns of text, by place; the others are of numbers, which end at the right.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    numeric = [column for column in range(len(widths)) if column not in left]
    return [
        "  ".join(
            cell.rjust(width) if column in numeric else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
