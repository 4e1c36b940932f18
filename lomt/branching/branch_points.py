"""``branch_points.yaml``: which layer each task reads, plain enough to be edited by hand."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lomt.branching.evidence import DensityProfile
from lomt.errors import ArtifactError, UnknownNameError
from lomt.models import Layer

__all__ = ["BranchPoint", "DecoderInput", "format_branch_points", "read_branch_points"]

_HEADING = """\
# Which backbone layer each task's decoder reads.
# Written by `lomt locate`; edit it and run `lomt rewire` to try other layers.
# In the comments: per layer the {evidence},
# `|` beside a layer that could have died. Cumulative cost is that of the backbone cut after the layer.
"""
_EVIDENCE = "share of channel groups that survived sparse training (mean over trials)"
_SHOWN = 3

BranchPoint = str | Mapping[str, str]
"""The deepest layer that a task reads; or, by layer that its decoder was made for, the layer that is read instead."""


@dataclass(frozen=True)
class DecoderInput:
    """Where one of the layers that a decoder reads is read when the backbone is cut.

    Args:
        made_for: The layer that the decoder was made for.
        layer: The layer that is read.
        explained: By layer that could be read, the share of the variance that it explains on unseen images; empty
            where nothing was measured.
    """

    made_for: str
    layer: str
    explained: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_moved(self) -> bool:
        """Whether another layer is read than the decoder was made for."""
        return self.layer != self.made_for


def format_branch_points(
    branch_points: Mapping[str, str],
    profiles: Mapping[str, DensityProfile],
    layers: Sequence[Layer],
    tried: Mapping[str, Mapping[str, float]] | None = None,
    *,
    evidence: str = _EVIDENCE,
    inputs: Mapping[str, Sequence[DecoderInput]] | None = None,
) -> str:
    """Return the commented YAML text.

    Args:
        branch_points: Layer by task.
        profiles: The evidence, by task.
        layers: Candidate layers with their costs.
        tried: By task the losses of trials at single layers, where there were any.
        evidence: What the share beside each layer is.
        inputs: By task of a model of the user's own, where each input of its decoder is read.
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
        read = (inputs or {}).get(task, ())
        text.extend(f"#   {place}" for place in _places(read))
        text.append(yaml.safe_dump({task: _point(chosen, read)}, sort_keys=False, width=1000))
    return "\n".join(text)


def _point(layer: str, inputs: Sequence[DecoderInput]) -> BranchPoint:
    """Return the layer where it says what every input reads, and otherwise what each of those that move reads."""
    moved = {own.made_for: own.layer for own in inputs if own.is_moved}
    return layer if set(moved.values()) <= {layer} else moved


def _places(inputs: Sequence[DecoderInput]) -> Iterator[str]:
    """Say where a decoder that reads several layers reads each, and what is known of those that move."""
    kept = [own.made_for for own in inputs if not own.is_moved]
    if kept and len(inputs) > 1:
        yield f"its decoder goes on reading {', '.join(kept)}"
    for own in inputs:
        if own.is_moved:
            best = sorted(own.explained.items(), key=lambda pair: -pair[1])[:_SHOWN]
            shown = ", ".join(f"{name} {share:.0%}" for name, share in best)
            of_it = f"; of it explain {shown}" if shown else ""
            yield f"its decoder reads {own.layer} in place of {own.made_for}, by an adapter{of_it}"


def read_branch_points(path: Path, tasks: Sequence[str]) -> dict[str, BranchPoint]:
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
    if not isinstance(content, dict) or not all(
        isinstance(task, str) and _is_branch_point(own) for task, own in content.items()
    ):
        raise ArtifactError(
            f"Expected {path} to hold lines `task: layer`, or a mapping of layers below a task, but got {content!r}."
        )
    for task in content:
        if task not in tasks:
            raise UnknownNameError("task", task, tasks)
    missing = [task for task in tasks if task not in content]
    if missing:
        raise ArtifactError(
            f"Branch points {path} lack task {', '.join(f'`{t}`' for t in missing)}. Add a line for each."
        )
    return {task: content[task] for task in tasks}


def _is_branch_point(value: Any) -> bool:
    if isinstance(value, dict):
        return bool(value) and all(isinstance(name, str) for pair in value.items() for name in pair)
    return isinstance(value, str)
