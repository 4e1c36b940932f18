"""How many channel groups are zero: layer by layer, part by part, and in all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lomt.structure import Axis, LayerGroups, channel_groups, zero_groups

__all__ = ["LayerSparsity", "PartSparsity", "SparsityReport", "measure_sparsity"]


@dataclass(frozen=True)
class PartSparsity:
    """Zero groups of a part of a network, or of all of it.

    Args:
        name: Name of the part.
        groups: Number of channel groups.
        zero_groups: Those of them whose every entry is zero.
        weights: Number of weights in the groups.
        zero_weights: Number of weights in the zero groups.
    """

    name: str
    groups: int
    zero_groups: int
    weights: int
    zero_weights: int

    @property
    def density(self) -> float:
        """Share of the groups that is not zero, 0 to 1."""
        return 1 - self.sparsity

    @property
    def sparsity(self) -> float:
        """Share of the groups that is zero, 0 to 1."""
        return self.zero_groups / self.groups if self.groups else 0.0

    @property
    def weight_sparsity(self) -> float:
        """Share of the weights that lies in zero groups, 0 to 1; the papers' parameter sparsity."""
        return self.zero_weights / self.weights if self.weights else 0.0


@dataclass(frozen=True)
class LayerSparsity:
    """Zero groups of one layer.

    Args:
        name: The layer's dotted path.
        component: The part it belongs to: the backbone or a task's decoder.
        groups: Number of channel groups.
        zero_groups: Those of them whose every entry is zero.
        group_size: Weights in one group.
    """

    name: str
    component: str
    groups: int
    zero_groups: int
    group_size: int

    @property
    def density(self) -> float:
        """Share of the groups that is not zero, 0 to 1."""
        return (self.groups - self.zero_groups) / self.groups


@dataclass(frozen=True)
class SparsityReport:
    """Zero channel groups of a network; zero says nothing yet of what can be removed.

    Args:
        layers: One entry a layer, in the network's order.
    """

    layers: tuple[LayerSparsity, ...]

    @property
    def components(self) -> dict[str, PartSparsity]:
        """The parts of the network, in order of first appearance."""
        names = dict.fromkeys(layer.component for layer in self.layers)
        return {
            name: _sum(name, [layer for layer in self.layers if layer.component == name]) for name in names
        }

    @property
    def total(self) -> PartSparsity:
        """All layers together."""
        return _sum("total", self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; shares and sums are written along for readers."""
        parts = [*self.components.values(), self.total]
        return {
            "layers": [{**asdict(layer), "density": layer.density} for layer in self.layers],
            "parts": [
                {**asdict(part), "density": part.density, "weight_sparsity": part.weight_sparsity}
                for part in parts
            ],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SparsityReport":
        """Return the report that `to_dict` wrote.

        Raises:
            ValueError: If `values` are not those of a report.
        """
        fields = tuple(LayerSparsity.__dataclass_fields__)
        try:
            layers = [LayerSparsity(**{name: layer[name] for name in fields}) for layer in values["layers"]]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"Expected a sparsity report with `layers` of {', '.join(fields)}, "
                f"but got one that fails with {error!r}."
            ) from error
        return cls(tuple(layers))

    def __str__(self) -> str:
        header = ("layer", "component", "groups", "zero", "density")
        rows = [
            (layer.name, layer.component, layer.groups, layer.zero_groups, layer.density)
            for layer in self.layers
        ]
        parts = [*self.components.values(), self.total]
        rows += [("", part.name, part.groups, part.zero_groups, part.density) for part in parts]
        return _table(header, rows)


def measure_sparsity(
    module_or_groups: nn.Module | Sequence[tuple[str, Tensor, LayerGroups]],
    *,
    component_of: Callable[[str], str] | None = None,
    axis: Axis = "in",
) -> SparsityReport:
    """Count the zero channel groups of a network.

    Args:
        module_or_groups: A network, of which all two-dimensional convolutions count, or what
            `lomt.structure.channel_groups` lists.
        component_of: Tells from a parameter's name which part of the network it belongs to. None puts all
            into one part, ``"model"``.
        axis: Which channels form the groups, where a network is given.
    """
    listed = module_or_groups
    if isinstance(listed, nn.Module):
        listed = channel_groups(listed, axis=axis)
    if not listed:
        return SparsityReport(())
    with torch.no_grad():
        # One tensor, so that an accelerator is waited for once and not once a layer.
        counts = torch.stack(
            [zero_groups(weight, groups.axis, groups.conv_groups).sum() for _, weight, groups in listed]
        ).tolist()
    return SparsityReport(
        tuple(
            LayerSparsity(
                groups.name, component_of(name) if component_of else "model", groups.count, zero, groups.size
            )
            for (name, _, groups), zero in zip(listed, counts, strict=True)
        )
    )


def _sum(name: str, layers: Sequence[LayerSparsity]) -> PartSparsity:
    return PartSparsity(
        name,
        groups=sum(layer.groups for layer in layers),
        zero_groups=sum(layer.zero_groups for layer in layers),
        weights=sum(layer.groups * layer.group_size for layer in layers),
        zero_weights=sum(layer.zero_groups * layer.group_size for layer in layers),
    )


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, str, int, int, float]]) -> str:
    cells = [header, *((name, part, str(a), str(b), f"{share:.1%}") for name, part, a, b, share in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )
