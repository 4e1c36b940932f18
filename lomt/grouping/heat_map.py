"""The affinity matrix as a picture."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path

from lomt.atomic_file import write_atomically
from lomt.errors import LomtError
from lomt.grouping.affinity import Affinity

__all__ = ["write_heat_map"]

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
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle
    except ImportError as error:
        raise LomtError(
            "Expected matplotlib to be installed, because affinities are drawn. "
            "Install it with `pip install lomt[grouping]`, or set `group.heat_map` to false."
        ) from error
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    names = [task for group in groups for task in group]
    order = [affinity.tasks.index(name) for name in names]
    values = affinity.matrix[order][:, order]
    count = len(names)
    apart = values.clone().fill_diagonal_(0)
    limit = float(apart.abs().max()) or 1.0
    side = min(max(3.2, 0.55 * count + 1.8), 16.0)
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(values.numpy(), cmap="RdBu", vmin=-limit, vmax=limit, interpolation="nearest")
    colours = figure.colorbar(image, ax=axes, shrink=0.8, extend="both")
    colours.set_label("gain of the row's task" if affinity.method != "cosine" else "cosine of gradients")
    axes.set_title(f"Affinity by {affinity.method}; frames are groups")
    axes.set_xlabel("trained with")
    if count <= _MOST_NAMES:
        axes.set_xticks(range(count), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(count), names)
    first = 0
    for group in groups:
        size = len(group)
        frame = Rectangle(
            (first - 0.5, first - 0.5), size, size, fill=False, linewidth=2.5, edgecolor="black"
        )
        frame.set_clip_on(False)
        axes.add_patch(frame)
        first += size
    if count <= _MOST_NUMBERS:
        for row in range(count):
            for column in range(count):
                value = float(values[row, column])
                dark = abs(value) > 0.6 * limit
                axes.text(
                    column,
                    row,
                    f"{value:.2g}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if dark else "black",
                )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomically(path, lambda partial: partial.write_bytes(buffer.getvalue()))
