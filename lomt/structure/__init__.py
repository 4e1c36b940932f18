"""What hangs together in a network: channel groups of single layers, and channels coupled across layers."""

from lomt.structure.analyse import names_layer, trace_structure
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
from lomt.structure.coupled_channels import (
    CoupledChannels,
    Keep,
    Resolved,
    Role,
    Structure,
    TensorSlices,
    all_kept,
)
from lomt.structure.free_sizes import FreeSize, free_sizes, source_checksum
from lomt.structure.model_copy import copy_model
from lomt.structure.operation_watch import OperationWatch
from lomt.structure.trace import Inputs, TraceError, named_outputs, named_tensors, run_model
from lomt.structure.unread import unread

__all__ = [
    "AXES",
    "Axis",
    "CoupledChannels",
    "FreeSize",
    "Inputs",
    "Keep",
    "LayerGroups",
    "OperationWatch",
    "Resolved",
    "Role",
    "Structure",
    "TensorSlices",
    "TraceError",
    "all_kept",
    "channel_groups",
    "copy_model",
    "expand_groups",
    "free_sizes",
    "group_rows",
    "group_view",
    "named_outputs",
    "named_tensors",
    "names_layer",
    "run_model",
    "source_checksum",
    "squared_norms",
    "trace_structure",
    "unread",
    "zero_groups",
]
