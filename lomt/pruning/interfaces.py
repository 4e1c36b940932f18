"""What scores and budgets need to know of a network's structure, and what a score is."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from lomt.structure.coupled_channels import CoupledChannels

__all__ = ["Importance", "Prunable"]


@runtime_checkable
class Prunable(Protocol):
    """As much of a network's :class:`~lomt.structure.coupled_channels.Structure` as scores and budgets look at."""

    @property
    def coupled(self) -> Sequence[CoupledChannels]:
        """All coupled channels, protected ones too."""

    @property
    def prunable(self) -> Sequence[CoupledChannels]:
        """Those that may lose channels, in forward order."""

    def params(self, keep: Mapping[str, Tensor]) -> int:
        """Count the parameters that are left with these masks."""

    def macs(self, keep: Mapping[str, Tensor]) -> int:
        """Count the multiply-accumulates that are left with these masks."""

    def component(self, name: str) -> str:
        """Name the part of the network: ``"shared"``, an output or ``"unused"``."""


@runtime_checkable
class Importance(Protocol):
    """Scores the channels of a network."""

    def __call__(self, structure: Prunable, model: nn.Module) -> dict[str, Tensor]:
        """Return one score a channel for everything prunable.

        Args:
            structure: What was traced from ``model``.
            model: The network; left as it was.

        Returns:
            By name of the coupled channels a vector (count,) on the CPU, at least 0 and finite; the higher, the
            more the channel is needed. Scores of different layers compare with each other.
        """
