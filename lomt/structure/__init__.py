"""What hangs together: the channel groups of a network's weights."""

from lomt.structure.channel_groups import (
    AXES,
    Axis,
    LayerGroups,
    channel_groups,
    expand_groups,
    group_rows,
    group_view,
    squared_norms,
    zero_groups,
)

__all__ = [
    "AXES",
    "Axis",
    "LayerGroups",
    "channel_groups",
    "expand_groups",
    "group_rows",
    "group_view",
    "squared_norms",
    "zero_groups",
]
