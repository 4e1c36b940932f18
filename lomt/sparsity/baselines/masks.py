"""Masks: which weights or channels a method keeps, and how much goes from which part of the network."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from lomt.errors import SparsityTargetError, UnknownNameError

__all__ = [
    "MaskedPart",
    "Masks",
    "apply_masks",
    "check_components",
    "check_target",
    "parts_of",
    "prunable_weights",
]

_KINDS = (nn.modules.conv._ConvNd,)


@dataclass(frozen=True)
class MaskedPart:
    """How much of a part of the network, or of all of it, is masked.

    Args:
        name: Name of the part.
        count: Weights, or channels.
        zero: Those that do not stay.
    """

    name: str
    count: int
    zero: int

    @property
    def sparsity(self) -> float:
        """Share that does not stay, 0 to 1."""
        return self.zero / self.count if self.count else 0.0


@dataclass(frozen=True)
class Masks:
    """What a method keeps.

    Args:
        method: Its name.
        target: Share that was asked to go.
        unit: What the masks are of: ``"weights"`` or ``"channels"``.
        keep: True where something stays: by parameter, of its shape, or by name of the coupled channels, (count,).
        components: Part of the network by the same names.
        facts: Numbers that the method found on its way, such as ``kappa``.
    """

    method: str
    target: float
    unit: str
    keep: Mapping[str, Bool[Tensor, "..."]]
    components: Mapping[str, str]
    facts: Mapping[str, float] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, MaskedPart]:
        """The parts of the network, in order of first appearance: backbone and decoders are never one number."""
        names = dict.fromkeys(self.components[name] for name in self.keep)
        return {
            part: self._part(part, [n for n in self.keep if self.components[n] == part]) for part in names
        }

    @property
    def total(self) -> MaskedPart:
        """All parts together."""
        return self._part("total", list(self.keep))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; the masks themselves are left out."""
        return {
            "method": self.method,
            "target": self.target,
            "unit": self.unit,
            "facts": dict(self.facts),
            "parts": [
                {"name": part.name, "count": part.count, "zero": part.zero, "sparsity": part.sparsity}
                for part in (*self.parts.values(), self.total)
            ],
        }

    def __str__(self) -> str:
        rows = [("part", self.unit, "zero", "share")]
        rows += [
            (part.name, str(part.count), str(part.zero), f"{part.sparsity:.1%}")
            for part in (*self.parts.values(), self.total)
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
            )
            for row in rows
        ]
        found = "".join(f", {name} {value:.4g}" for name, value in self.facts.items())
        return "\n".join([f"{self.method}, target {self.target:.1%}{found}", *lines])

    def _part(self, part: str, names: list[str]) -> MaskedPart:
        count = sum(self.keep[name].numel() for name in names)
        return MaskedPart(part, count, count - sum(int(self.keep[name].sum()) for name in names))


def prunable_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of all convolutions by name, the ones that the published methods mask.

    Linear layers, norms and biases are spared. A weight that two layers share is listed once, frozen ones not at all.

    Raises:
        SparsityTargetError: If there are none.
    """
    found: dict[int, tuple[str, nn.Parameter]] = {}
    for path, layer in model.named_modules():
        weight = getattr(layer, "weight", None) if isinstance(layer, _KINDS) else None
        if isinstance(weight, nn.Parameter) and weight.requires_grad:
            found.setdefault(id(weight), (f"{path}.weight" if path else "weight", weight))
    if not found:
        raise SparsityTargetError(
            "Expected the model to have convolutions whose weights may be zero, but it has none. "
            "Unfreeze what may be sparse, or leave this method out."
        )
    return dict(found.values())


@torch.no_grad()
def apply_masks(model: nn.Module, keep: Mapping[str, Bool[Tensor, "..."]]) -> None:
    """Set to zero, in place, all weights that do not stay.

    Args:
        model: Changed.
        keep: By name of the parameter.
    """
    parameters = dict(model.named_parameters())
    for name, mask in keep.items():
        parameters[name].masked_fill_(~mask.to(parameters[name].device), 0)


def check_target(target: float) -> None:
    """Refuse a share that is none.

    Raises:
        SparsityTargetError: If it is below 0, or so large that nothing would be left.
    """
    if not 0 <= target < 1:
        raise SparsityTargetError(
            f"Expected `target` to be a share of at least 0 and below 1, but got {target}. "
            "It is the share that goes: 0.9 leaves a tenth."
        )


def check_components(asked: Collection[str], known: Iterable[str]) -> None:
    """Refuse parts that the network does not have.

    Raises:
        UnknownNameError: If one is not known.
    """
    known = set(known)
    for name in asked:
        if name not in known:
            raise UnknownNameError("component", name, known)


def parts_of(names: Mapping[str, Any], component_of: Callable[[str], str] | None) -> dict[str, str]:
    """Return the part of each name; without a function all belong to one, ``"model"``."""
    return {name: component_of(name) if component_of else "model" for name in names}
