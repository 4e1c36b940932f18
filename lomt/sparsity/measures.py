"""How far a network has come when some of its channels are zero: what a target is a share of."""

from collections.abc import Callable

from jaxtyping import Bool
from torch import Tensor

from lomt.sparsity.coupled_groups import CoupledGroups
from lomt.structure import Structure

__all__ = ["Measure", "macs_share", "parameters_share", "removable_share"]

Measure = Callable[[Bool[Tensor, " groups"]], float]
"""Map from which groups are alive to a share, 0 to 1, that only grows as groups die."""


def removable_share(groups: CoupledGroups) -> Measure:
    """Return the share of the groups that are zero; where they are coupled each is a channel that can go."""

    def measure(is_alive: Bool[Tensor, " groups"]) -> float:
        """Count groups."""
        return 1 - int(is_alive.count_nonzero()) / groups.count

    return measure


def parameters_share(groups: CoupledGroups, structure: Structure) -> Measure:
    """Return the share of all parameters that goes with the channels at zero."""
    dense = structure.params()

    def measure(is_alive: Bool[Tensor, " groups"]) -> float:
        """Count parameters."""
        return 1 - structure.params(groups.keep(is_alive)) / dense

    return measure


def macs_share(groups: CoupledGroups, structure: Structure) -> Measure:
    """Return the share of all multiply-accumulates that goes with the channels at zero."""
    dense = structure.macs()

    def measure(is_alive: Bool[Tensor, " groups"]) -> float:
        """Count multiply-accumulates."""
        return 1 - structure.macs(groups.keep(is_alive)) / dense

    return measure
