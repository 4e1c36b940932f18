"""Zero, removable and removed: three numbers of every part of a network that must never be mixed up."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lomt.structure import Structure, named_tensors, unread

__all__ = ["ComponentRemoval", "RemovalReport", "measure_removable"]


@dataclass(frozen=True)
class ComponentRemoval:
    """One part of a network: the backbone or a decoder.

    Args:
        name: Of the part.
        weights: Entries of its weights; biases and norms are not counted.
        zero_weights: Those of them that are zero.
        channels: Channels that its layers compute and that may go: not protected, not mixed by a norm.
        removable_channels: Those of them that nobody reads, so that they can go without a trace.
        parameters: All its parameters.
        removable_parameters: Those of them that go with the removable channels of the whole network.
        dense_parameters: What it had before anything was removed; None where that is not known.
    """

    name: str
    weights: int
    zero_weights: int
    channels: int
    removable_channels: int
    parameters: int
    removable_parameters: int
    dense_parameters: int | None = None

    @property
    def zero(self) -> float:
        """Share of the weights that is zero, 0 to 1."""
        return self.zero_weights / self.weights if self.weights else 0.0

    @property
    def removable(self) -> float:
        """Share of the channels that can be removed without a trace, 0 to 1."""
        return self.removable_channels / self.channels if self.channels else 0.0

    @property
    def removed(self) -> float | None:
        """Share of the dense network's parameters that is gone, 0 to 1; None where that is not known."""
        return 1 - self.parameters / self.dense_parameters if self.dense_parameters else None


@dataclass(frozen=True)
class RemovalReport:
    """What is zero, removable and removed, part by part.

    There is no sum over the parts on purpose: in published models of 90 % sparsity the backbone has 1.4 % of the
    parameters, so that such a number speaks of the decoders alone.

    Args:
        components: One entry a part, in the network's order.
    """

    components: tuple[ComponentRemoval, ...]

    def __getitem__(self, name: str) -> ComponentRemoval:
        return next(own for own in self.components if own.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; shares are written along for readers."""
        return {
            "components": [
                {**asdict(own), "zero": own.zero, "removable": own.removable, "removed": own.removed}
                for own in self.components
            ]
        }

    def __str__(self) -> str:
        rows = [
            ("component", "zero weights", "removable channels", "removable parameters", "removed parameters")
        ]
        for own in self.components:
            freed = own.removable_parameters / own.parameters if own.parameters else 0.0
            gone = "not known" if own.removed is None else f"{own.removed:.1%}"
            rows.append((own.name, f"{own.zero:.1%}", f"{own.removable:.1%}", f"{freed:.1%}", gone))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if column == 0 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        )


@torch.no_grad()
def measure_removable(
    model: nn.Module,
    structure: Structure,
    *,
    component_of: Callable[[str], str] | None = None,
    dense_parameters: Mapping[str, int] | None = None,
) -> RemovalReport:
    """Count what is zero, removable and removed in every part of a network.

    Weights count as they are behind thresholds. Whole layers that have become constant, which pruning removes as
    well, are not foreseen in the removable share.

    Args:
        model: The network, with or without thresholds.
        structure: What was traced from it, without thresholds.
        component_of: Tells from a parameter's name which part it belongs to; None makes all one part, ``"model"``.
        dense_parameters: Parameters of each part before anything was removed, if known.
    """
    tensors = _effective_tensors(model)
    keep = unread(structure, tensors)
    resolved = structure.resolve(keep).tensors
    part_of = component_of or (lambda _: "model")
    counts: dict[str, dict[str, int]] = {}
    for name in structure.parameters:
        tensor, own = tensors[name], counts.setdefault(part_of(name), _nothing())
        left = tensor.numel()
        for dim, kept in resolved.get(name, {}).items():
            left = left // tensor.shape[dim] * len(kept)
        own["parameters"] += tensor.numel()
        own["removable_parameters"] += tensor.numel() - left
        if tensor.ndim > 1:
            own["weights"] += tensor.numel()
            own["zero_weights"] += tensor.numel() - int(tensor.count_nonzero())
    for coupled in (own for own in structure.prunable if own.is_exact):
        first = next((part for part in coupled.slices if part.role == "producer"), None)
        if first is not None:
            own = counts.setdefault(part_of(first.tensor), _nothing())
            own["channels"] += coupled.count
            if coupled.name in keep:
                own["removable_channels"] += int((~keep[coupled.name]).sum())
    dense = dense_parameters or {}
    return RemovalReport(
        tuple(ComponentRemoval(name, **own, dense_parameters=dense.get(name)) for name, own in counts.items())
    )


def _nothing() -> dict[str, int]:
    fields = (
        "weights",
        "zero_weights",
        "channels",
        "removable_channels",
        "parameters",
        "removable_parameters",
    )
    return dict.fromkeys(fields, 0)


def _effective_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return all tensors by the names they have without parametrisations, with the values that layers use."""
    found = named_tensors(model)
    for path, layer in model.named_modules():
        if parametrize.is_parametrized(layer):
            prefix = f"{path}." if path else ""
            for attribute in layer.parametrizations:  # type: ignore[union-attr]
                found[f"{prefix}{attribute}"] = getattr(layer, attribute)
    return found
