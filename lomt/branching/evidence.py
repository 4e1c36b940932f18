"""What sparse training says of a task's need for each backbone layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from lomt.models import Layer
from lomt.sparsity import SparsityReport

__all__ = ["DensityProfile", "LayerEvidence", "density_profile"]


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
    shortcuts: Sequence[str] = ("downsample", "shortcut", ".se."),
) -> DensityProfile:
    """Return a task's evidence from the sparsity reports of its trials.

    Args:
        task: The task.
        reports: One sparse training each.
        layers: Candidate layers in forward order.
        shortcuts: Parts of names of convolutions that lie beside a block's main path; they do not count for the block.

    Raises:
        ValueError: If there is no report.
    """
    if not reports:
        raise ValueError(f"Expected at least one sparsity report of task `{task}`, but got none.")
    by_trial = [_densities(report) for report in reports]
    evidence = []
    for layer in layers:
        inside = [name for name in by_trial[0] if _belongs(name, layer.name, shortcuts)]
        if not inside:
            continue
        densities = tuple(min(trial[name] for name in inside) for trial in by_trial)
        evidence.append(LayerEvidence(layer.name, densities, layer.is_bypassable))
    return DensityProfile(task, tuple(evidence))


def _densities(report: SparsityReport) -> Mapping[str, float]:
    return {layer.name: layer.density for layer in report.layers}


def _belongs(convolution: str, layer: str, shortcuts: Sequence[str]) -> bool:
    if convolution == layer:
        return True
    return convolution.startswith(f"{layer}.") and not any(part in f"{convolution}." for part in shortcuts)
