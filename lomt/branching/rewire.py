"""Give each task's decoder its branch point and drop the backbone beyond the deepest."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from torch import nn

from lomt.branching.branch_points import BranchPoint
from lomt.errors import ArtifactError, UnknownNameError
from lomt.models import AdoptedSpec, ModelSpec

__all__ = ["copy_matching_weights", "rewire"]


AnySpec = TypeVar("AnySpec", bound=ModelSpec | AdoptedSpec)


def rewire(spec: AnySpec, branch_points: Mapping[str, BranchPoint]) -> AnySpec:
    """Return the plan of the network whose decoders read the given layers.

    The backbone of the network built from it ends after the deepest branch point; with every task at
    the original's last layer it computes exactly what the original does. A decoder of a user's own model that reads
    several layers goes on reading those at its layer or before it; each deeper one is replaced by the layer.

    Args:
        spec: The original network.
        branch_points: Layer by task; of such a decoder also the layers that single inputs are read from. Tasks that
            are absent stay where they are.

    Raises:
        UnknownNameError: If a task is not one of the network's.
        ArtifactError: If inputs are named of a decoder that has only one.
    """
    for task in branch_points:
        if task not in spec.decoders:
            raise UnknownNameError("task", task, spec.decoders)
    layers = {task: own for task, own in branch_points.items() if isinstance(own, str)}
    reads = {task: own for task, own in branch_points.items() if not isinstance(own, str)}
    kept = {task: layer for task, layer in spec.branch_points.items() if task not in reads}
    if isinstance(spec, AdoptedSpec):
        others = {task: own for task, own in spec.reads.items() if task not in layers}
        return replace(spec, branch_points={**kept, **layers}, reads={**others, **reads})
    if reads:
        task = next(iter(reads))
        raise ArtifactError(
            f"Expected one layer for task `{task}`, because decoders that are built of a recipe read one, but got "
            f"{dict(reads[task])}. Name the layer."
        )
    return replace(spec, branch_points={**kept, **layers})


def copy_matching_weights(source: nn.Module, target: nn.Module) -> tuple[str, ...]:
    """Copy every weight that both networks have under the same name and shape.

    Args:
        source: Left as it is.
        target: Gets the weights.

    Returns:
        Names of the target's entries that the source does not fit; they keep their values.
    """
    available = source.state_dict()
    wanted = target.state_dict()
    fitting = {n: available[n] for n, v in wanted.items() if n in available and available[n].shape == v.shape}
    target.load_state_dict(fitting, strict=False)
    return tuple(name for name in wanted if name not in fitting)
