"""The choices of channels that a budget of multiply-accumulates leads to, from all kept to as few as may be."""

from collections.abc import Callable, Mapping

from jaxtyping import Bool, Float
from torch import Tensor

from lomt.pruning.budget import choose_channels
from lomt.pruning.ranking import Divisor, rank_channels
from lomt.structure import Structure

__all__ = ["Masks", "ReachablePlans"]

Masks = Mapping[str, Bool[Tensor, " _"]]

_RESOLUTION = 0.002
_ROUNDING = 1e-9


class ReachablePlans:
    """Choices of channels by the fraction of multiply-accumulates that they keep.

    Args:
        structure: What was traced.
        scores: One score a channel, by name, (count,).
        divisor: As :func:`lomt.pruning.budget.choose_channels` takes it, and the rest too.
        ranking: A key of ``lomt.pruning.ranking.RANKINGS``.
        minimum: Least fraction of each layer's channels that stays.
        must_stay: By name a mask (count,) of channels that must not go.

    Raises:
        BudgetError: An argument is out of range.
        UnknownNameError: If there is no such ranking, or a name is not of this structure.
    """

    def __init__(
        self,
        structure: Structure,
        scores: Mapping[str, Float[Tensor, " _"]],
        *,
        divisor: Divisor = None,
        ranking: str = "global",
        minimum: float = 0.1,
        must_stay: Mapping[str, Bool[Tensor, " _"]] | None = None,
    ) -> None:
        self.structure, self._scores = structure, scores
        self._divisor, self._ranking, self._minimum, self._must_stay = divisor, ranking, minimum, must_stay
        self._dense = structure.macs({})
        order = rank_channels(
            structure, scores, divisor=divisor, ranking=ranking, minimum=minimum, must_stay=must_stay
        )
        least = order.keep(order.removed(len(order.order)))
        self.smallest: tuple[float, Masks] = (self._fraction(least), least)
        """The smallest network: the fraction of MACs that it keeps, and its masks."""

    def within(self, macs: float) -> tuple[float, Masks]:
        """Return the choice for a budget of MACs: the fraction it really keeps, and its masks.

        Args:
            macs: Largest fraction to keep; below the smallest network's it is that one.
        """
        if macs <= self.smallest[0]:
            return self.smallest
        keep = choose_channels(
            self.structure,
            self._scores,
            macs=macs,
            divisor=self._divisor,
            ranking=self._ranking,
            minimum=self._minimum,
            must_stay=self._must_stay,
        )
        return self._fraction(keep), keep

    def largest(self, fits: Callable[[float, Masks], bool]) -> tuple[float, Masks]:
        """Find the choice with most MACs that fits, to 0.2 % of the dense model's MACs, by bisection.

        Args:
            fits: Says of a fraction of MACs and masks whether they fit; if so, smaller ones do as well.

        Returns:
            The smallest choice if none fits.
        """
        best = self.smallest
        low, high = best[0], 1.0
        while high - low > _RESOLUTION:
            middle = (low + high) / 2
            found = self.within(middle)
            if fits(*found):
                low = middle
                best = max(best, found, key=lambda own: own[0])
            else:
                # Budgets between the choice's own MACs and the middle lead to this choice too.
                high = min(middle, max(found[0] - _ROUNDING, low))
        return best

    def _fraction(self, keep: Masks) -> float:
        return self.structure.macs(keep) / self._dense if self._dense else 0.0
