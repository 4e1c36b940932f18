"""Affinity and membership matrices as pictures."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lomt.atomic_file import write_atomically
from lomt.errors import LomtError
from lomt.grouping.affinity import Affinity
from lomt.grouping.membership import Membership

__all__ = ["require_matplotlib", "write_heat_map", "write_membership_map"]

_MOST_NUMBERS, _MOST_NAMES = 14, 60


def write_heat_map(path: Path, affinity: Affinity, groups: Sequence[Sequence[str]]) -> None:
    """Write a PNG of the matrix, tasks in the order of their groups, each group in a frame.

    The colours end at the largest absolute value off the diagonal, red for harm and blue for gain; a task by itself
    (the diagonal) may lie beyond.

    Args:
        path: Of the PNG.
        affinity: What to draw.
        groups: Names of tasks; every task in one group.

    Raises:
        LomtError: If matplotlib is not installed.
    """
    names = [task for group in groups for task in group]
    order = [affinity.tasks.index(name) for name in names]
    values = affinity.matrix[order][:, order]
    limit = float(values.clone().fill_diagonal_(0).abs().max()) or 1.0
    axes, image = _draw(values, cmap="RdBu", vmin=-limit, vmax=limit)
    colours = axes.figure.colorbar(image, ax=axes, shrink=0.8, extend="both")
    colours.set_label("gain of the row's task" if affinity.method != "cosine" else "cosine of gradients")
    axes.set_title(f"Affinity by {affinity.method}; frames are groups")
    axes.set_xlabel("trained with")
    _name(axes, columns=names, rows=names)
    first = 0
    for group in groups:
        _frame(axes, first, first, len(group), len(group))
        first += len(group)
    _write_numbers(axes, values, dark=values.abs() > 0.6 * limit)
    _save(path, axes)


def write_membership_map(path: Path, membership: Membership) -> None:
    """Write a PNG of the matrix, tasks in the order of their groups, a frame where each belongs most.

    Args:
        path: Of the PNG.
        membership: What to draw.

    Raises:
        LomtError: If matplotlib is not installed.
    """
    grouping = membership.grouping
    names = [task for group in grouping.groups for task in group]
    values = membership.matrix[[membership.tasks.index(name) for name in names]]
    axes, image = _draw(values, cmap="Blues", vmin=0, vmax=1)
    axes.figure.colorbar(image, ax=axes, shrink=0.8).set_label("membership")
    axes.set_title(f"Membership by {membership.method}")
    axes.set_xlabel("group")
    _name(axes, columns=[str(group + 1) for group in range(values.shape[1])], rows=names)
    first = 0
    for group, column in zip(grouping.groups, grouping.facts["columns"], strict=True):
        _frame(axes, column, first, 1, len(group))
        first += len(group)
    _write_numbers(axes, values, dark=values > 0.6)
    _save(path, axes)


def require_matplotlib() -> tuple[Any, Any]:
    """Return the classes of a picture's canvas and figure.

    Raises:
        LomtError: If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise LomtError(
            "Expected matplotlib to be installed, because a heat map is drawn. "
            "Install it with `pip install lomt[grouping]`, or set `group.heat_map` to false."
        ) from error
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    return FigureCanvasAgg, Figure


def _draw(values: Tensor, **colours: Any) -> tuple[Any, Any]:
    """Return axes and image of a matrix, in a figure of a size for its numbers."""
    canvas_of, figure_of = require_matplotlib()
    height, width = (min(max(3.2, 0.55 * count + 1.8), 16.0) for count in values.shape)
    figure = figure_of(figsize=(width + 1.2, height), layout="constrained")
    canvas_of(figure)
    axes = figure.add_subplot()
    return axes, axes.imshow(values.numpy(), interpolation="nearest", **colours)


def _name(axes: Any, *, columns: Sequence[str], rows: Sequence[str]) -> None:
    if max(len(columns), len(rows)) <= _MOST_NAMES:
        axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(rows)), rows)


def _frame(axes: Any, column: int, row: int, width: int, height: int) -> None:
    from matplotlib.patches import Rectangle

    corner = (column - 0.5, row - 0.5)
    frame = Rectangle(corner, width, height, fill=False, linewidth=2.5, edgecolor="black")
    frame.set_clip_on(False)
    axes.add_patch(frame)


def _write_numbers(axes: Any, values: Tensor, dark: Tensor) -> None:
    if max(values.shape) > _MOST_NUMBERS:
        return
    for row, entries in enumerate(values.tolist()):
        for column, value in enumerate(entries):
            colour = "white" if dark[row, column] else "black"
            axes.text(column, row, f"{value:.2g}", ha="center", va="center", fontsize=8, color=colour)


def _save(path: Path, axes: Any) -> None:
    buffer = io.BytesIO()
    axes.figure.savefig(buffer, format="png", dpi=120)
    write_atomically(path, lambda partial: partial.write_bytes(buffer.getvalue()))
