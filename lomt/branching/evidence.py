"""What sparse training says of a task's need for each backbone layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from lomt.models import Layer
from lomt.sparsity import SparsityReport

__all__ = ["DensityProfile", "LayerEvidence", "density_profile", "survival_profiles"]


@dataclass(frozen=True)
class LayerEvidence:
    """How much of one layer survived, trial by trial.

    Args:
        layer: Name of the layer.
        densities: Share of surviving channel groups, 0 to 1, one value a trial. Of a block: of its sparsest
            convolution, since one dead convolution makes a residual branch constant.
        is_bypassable: Whether features flow around the layer when it is dead. One that is not cannot die,
            so that it is alive is no evidence of being needed.
    """

    layer: str
    densities: tuple[float, ...]
    is_bypassable: bool

    @property
    def density(self) -> float:
        """The mean over trials."""
        return fmean(self.densities)

    def is_active(self, activity: float) -> bool:
        """Tell whether more than the share ``activity`` survived in every trial (LOMT's rule, with 1 %)."""
        return all(density > activity for density in self.densities)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"layer": self.layer, "densities": list(self.densities), "is_bypassable": self.is_bypassable}


@dataclass(frozen=True)
class DensityProfile:
    """The evidence of one task over all layers, in forward order.

    Args:
        task: The task trained alone.
        layers: One piece of evidence a layer.
    """

    task: str
    layers: tuple[LayerEvidence, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"task": self.task, "layers": [layer.to_dict() for layer in self.layers]}


def density_profile(
    task: str,
    reports: Sequence[SparsityReport],
    layers: Sequence[Layer],
    *,
    granularity: Literal["block", "conv"] = "block",
    shortcuts: Sequence[str] = ("downsample", "shortcut"),
) -> DensityProfile:
    """Return a task's evidence from the sparsity reports of its trials.

    A block can die when features flow around each convolution of its main path, be it by an identity or by a
    convolution in the shortcut. Gates such as squeeze-and-excitation do not count.

    Args:
        task: The task.
        reports: One sparse training each.
        layers: Candidate layers of every kind, in forward order.
        granularity: Whether the evidence is of blocks or of single convolutions. A backbone that cannot be traced
            has neither; its stages are taken then.
        shortcuts: Parts of names of convolutions that lie beside a block's main path.

    Raises:
        ValueError: If there is no report.
    """
    if not reports:
        raise ValueError(f"Expected at least one sparsity report of task `{task}`, but got none.")
    trials = [{layer.name: layer.density for layer in report.layers} for report in reports]
    can_die = {layer.name: layer.is_bypassable for layer in layers if layer.kind == "conv"}
    known = [name for name in trials[0] if name in can_die or not can_die]
    evidence = []
    for layer in [layer for layer in layers if layer.kind == granularity] or layers:
        inside = [name for name in known if _belongs(name, layer.name, shortcuts)]
        if inside:
            densities = tuple(min(trial[name] for name in inside) for trial in trials)
            is_bypassable = all(can_die.get(name, False) for name in inside)
            evidence.append(LayerEvidence(layer.name, densities, is_bypassable))
    return DensityProfile(task, tuple(evidence))


def survival_profiles(trials: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, DensityProfile]:
    """Return the tasks' evidence from one-run trials, in which every layer can die.

    Args:
        trials: Each gives by task and layer, in forward order, the share of the lambda path for which the task
            went on reading the layer, 0 to 1.

    Raises:
        ValueError: If there is no trial.
    """
    if not trials:
        raise ValueError("Expected at least one trial, but got none.")
    return {
        task: DensityProfile(
            task,
            tuple(
                LayerEvidence(layer, tuple(trial[task][layer] for trial in trials), is_bypassable=True)
                for layer in layers
            ),
        )
        for task, layers in trials[0].items()
    }


def _belongs(convolution: str, layer: str, shortcuts: Sequence[str]) -> bool:
    if convolution == layer:
        return True
    return convolution.startswith(f"{layer}.") and not any(part in convolution for part in shortcuts)
