"""Pruning plans as text: a table of the parts, and lines on the rest."""

from collections import Counter
from collections.abc import Iterator, Sequence

from lomt.pruning.plan import ComponentChange, PruningPlan, Step

__all__ = ["plan_table"]

_HEADINGS = ("part", "channels", "", "params", "", "MACs", "")


def plan_table(plan: PruningPlan) -> str:
    """Show what a plan does; the number of lines does not grow with the number of layers."""
    rows = [_HEADINGS, *(_row(change) for change in (*plan.components, _whole(plan)))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    table = [_line(row, widths) for row in rows]
    return "\n".join([*table, *_notes(plan)])


def _whole(plan: PruningPlan) -> ComponentChange:
    prunable = {name: count for name, count in plan.counts.items() if name not in plan.protected}
    after = sum(len(plan.keep[name]) if name in plan.keep else count for name, count in prunable.items())
    channels = (sum(prunable.values()), after)
    return ComponentChange(
        "all", channels, (plan.params_before, plan.params_after), (plan.macs_before, plan.macs_after)
    )


def _row(change: ComponentChange) -> tuple[str, ...]:
    cells = [change.name]
    for before, after in (change.channels, change.params, change.macs):
        share = f"({100 * after / before:.1f} %)" if before else ""
        cells += [f"{before:,} -> {after:,}", share]
    return tuple(cells)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = row
    cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
    return "  ".join([first.ljust(widths[0]), *cells]).rstrip()


def _notes(plan: PruningPlan) -> Iterator[str]:
    if plan.is_empty:
        yield "Nothing to remove."
    if plan.replaced:
        yield f"Removed as a whole: {_listing([f'{r.module} ({r.kind})' for r in plan.replaced])}"
    for step in plan.steps:
        yield f"{step.kind.capitalize()}: {step.what}{_change(step)}"
    if plan.protected:
        reasons = Counter(plan.protected.values()).most_common()
        told = [f"{count} {reason}" for reason, count in reasons]
        yield f"Protected: {len(plan.protected)} coupled channels: {_listing(told, separator='; ')}"


def _change(step: Step) -> str:
    if not step.output_change:
        return ""
    changes = ", ".join(f"{name} {value:.2g}" for name, value in step.output_change.items())
    return f"; relative change of outputs: {changes}"


def _listing(texts: Sequence[str], most: int = 8, separator: str = ", ") -> str:
    shown = separator.join(texts[:most])
    return shown if len(texts) <= most else f"{shown}{separator}and {len(texts) - most} more"
