"""``branch_points.yaml``: which layer each task reads, plain enough to be edited by hand."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from lomt.branching.evidence import DensityProfile
from lomt.errors import ArtifactError, UnknownNameError
from lomt.models import Layer

__all__ = ["format_branch_points", "read_branch_points"]

_HEADING = """\
# Which backbone layer each task's decoder reads.
# Written by `lomt locate`; edit it and run `lomt rewire` to try other layers.
# In the comments: per layer the {evidence},
# `|` beside a layer that could have died. Cumulative cost is that of the backbone cut after the layer.
"""
_EVIDENCE = "share of channel groups that survived sparse training (mean over trials)"


def format_branch_points(
    branch_points: Mapping[str, str],
    profiles: Mapping[str, DensityProfile],
    layers: Sequence[Layer],
    tried: Mapping[str, Mapping[str, float]] | None = None,
    *,
    evidence: str = _EVIDENCE,
    reads: Mapping[str, Mapping[str, str]] | None = None,
) -> str:
    """Return the commented YAML text.

    Args:
        branch_points: Layer by task.
        profiles: The evidence, by task.
        layers: Candidate layers with their costs.
        tried: By task the losses of trials at single layers, where there were any.
        evidence: What the share beside each layer is.
        reads: By task whose decoder reads several layers, what it reads in place of each that it was made for.
    """
    costs = {layer.name: layer for layer in layers}
    text = [_HEADING.format(evidence=evidence)]
    for task, chosen in branch_points.items():
        for own in profiles[task].layers if task in profiles else ():
            cost = costs[own.layer]
            mark = "<-" if own.layer == chosen else ""
            text.append(
                f"#   {'|' if own.is_bypassable else ' '} {own.layer:<28} {own.density:6.1%} "
                f"{cost.params / 1e6:8.2f} M params {cost.macs / 1e6:9.1f} M MACs {mark}".rstrip()
            )
        losses = (tried or {}).get(task, {})
        if losses:
            shown = ", ".join(f"{layer} {loss:.4f}" for layer, loss in losses.items())
            text.append(f"#   loss when trained alone at a layer: {shown}")
        text.extend(f"#   {place}" for place in _places((reads or {}).get(task, {})))
        text.append(f"{task}: {chosen}\n")
    return "\n".join(text)


def _places(reads: Mapping[str, str]) -> Iterator[str]:
    """Say where a decoder that reads several layers reads each."""
    if len(reads) < 2:
        return
    kept = [name for name, layer in reads.items() if name == layer]
    if kept:
        yield f"its decoder goes on reading {', '.join(kept)}"
    for name, layer in reads.items():
        if name != layer:
            yield f"its decoder reads {layer} in place of {name}, by an adapter"


def read_branch_points(path: Path, tasks: Sequence[str]) -> dict[str, str]:
    """Read and check the file.

    Args:
        path: The YAML file.
        tasks: Every one must have a layer.

    Raises:
        ArtifactError: If the file is missing, no mapping of names, or lacks a task.
        UnknownNameError: If it names a task that there is not.
    """
    if not path.exists():
        raise ArtifactError(
            f"Expected branch points in {path}, but there is no such file. Run `lomt locate` first."
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ArtifactError(f"Branch points {path} are not YAML: {error}.") from error
    if not isinstance(content, dict) or not all(isinstance(v, str) for pair in content.items() for v in pair):
        raise ArtifactError(f"Expected {path} to hold lines `task: layer`, but got {content!r}.")
    for task in content:
        if task not in tasks:
            raise UnknownNameError("task", task, tasks)
    missing = [task for task in tasks if task not in content]
    if missing:
        raise ArtifactError(
            f"Branch points {path} lack task {', '.join(f'`{t}`' for t in missing)}. Add a line for each."
        )
    return {task: content[task] for task in tasks}
