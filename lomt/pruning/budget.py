"""Which channels stay: the least removal that meets a budget."""

import math
from collections import Counter
from collections.abc import Callable, Mapping

from jaxtyping import Bool, Float
from torch import Tensor

from lomt.pruning.interfaces import Prunable
from lomt.pruning.ranking import BudgetError, Divisor, Ranking, rank_channels

__all__ = ["BudgetError", "choose_channels", "count_channels"]

Masks = Mapping[str, Bool[Tensor, " _"]]


def choose_channels(
    structure: Prunable,
    scores: Mapping[str, Float[Tensor, " _"]],
    *,
    channels: float | None = None,
    params: float | None = None,
    macs: float | None = None,
    divisor: Divisor = None,
    ranking: str = "global",
    minimum: float = 0.1,
    must_stay: Masks | None = None,
) -> dict[str, Bool[Tensor, " _"]]:
    """Choose the channels to keep so that just one budget is met.

    Blocks of channels go in the order of the ranking until the budget is met; then blocks come back, the last one
    first, as long as the budget still holds. What is left is below the budget, and giving any layer its last lost
    block back would exceed it. The more a budget allows, the more is left.

    Args:
        structure: What was traced.
        scores: One finite score a channel, by name, (count,); higher ones stay.
        channels: Largest fraction of all prunable channels to keep, above 0 to 1.
        params: Largest fraction of the model's parameters to keep, above 0 to 1.
        macs: Largest fraction of the model's multiply-accumulates to keep, above 0 to 1.
        divisor: What widths are multiples of, or which are allowed, see :func:`lomt.pruning.ranking.rank_channels`.
        ranking: ``"global"``, ``"component"`` or ``"layer"``.
        minimum: Least fraction of each layer's channels that stays, 0 to 1. The default of a tenth keeps a layer
            with low scores from becoming the bottleneck of the whole network.
        must_stay: By name a mask (count,), True where a channel must not go.

    Returns:
        By name a mask (count,) for those that lose channels, True where a channel stays.

    Raises:
        UnknownNameError: If there is no such ranking, or a name is not of this structure.
        BudgetError: If not just one budget is given, an argument is out of range, or the budget cannot be met; the
            message says what can.
    """
    name, fraction = _one_budget({"channels": channels, "params": params, "macs": macs})
    order = rank_channels(
        structure, scores, divisor=divisor, ranking=ranking, minimum=minimum, must_stay=must_stay
    )
    dense = count_channels(structure, {})
    costs: Mapping[str, Callable[[Masks], int]] = {
        "channels": lambda keep: (
            dense - sum(mask.numel() - int(mask.count_nonzero()) for mask in keep.values())
        ),
        "params": structure.params,
        "macs": structure.macs,
    }
    return order.keep(_least_removal(order, costs[name], name, fraction))


def count_channels(structure: Prunable, keep: Masks) -> int:
    """Count the prunable channels that stay."""
    return sum(int(keep[c.name].sum()) if c.name in keep else c.count for c in structure.prunable)


def _one_budget(budgets: Mapping[str, float | None]) -> tuple[str, float]:
    given = {name: fraction for name, fraction in budgets.items() if fraction is not None}
    if len(given) != 1:
        got = " and ".join(f"`{name}`" for name in given) or "none"
        raise BudgetError(f"Expected just one of `channels`, `params` and `macs`, but got {got}.")
    ((name, fraction),) = given.items()
    if not 0 < fraction <= 1:
        raise BudgetError(f"Expected `{name}` to be a fraction above 0 and at most 1, but got {fraction}.")
    return name, fraction


def _least_removal(order: Ranking, cost: Callable[[Masks], int], name: str, fraction: float) -> Counter[int]:
    dense = cost({})
    budget = fraction * dense * (1 + 1e-12)  # 0.29 of 100 are 29, which rounding may put out of reach
    if dense <= budget:
        return Counter()
    least = cost(order.keep(order.removed(len(order.order))))
    if least > budget:
        raise BudgetError(_out_of_reach(name, fraction, least / dense))
    too_few, enough = 0, len(order.order)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if cost(order.keep(order.removed(middle))) <= budget:
            enough = middle
        else:
            too_few = middle
    removed = order.removed(enough)
    _give_back(order, removed, enough, lambda: cost(order.keep(removed)) <= budget)
    return removed


def _give_back(order: Ranking, removed: Counter[int], blocks: int, fits: Callable[[], bool]) -> None:
    full = set()
    for layer in reversed(order.order[:blocks]):
        if layer not in full:
            removed[layer] -= 1
            if not fits():
                removed[layer] += 1
                full.add(layer)


def _out_of_reach(name: str, fraction: float, reachable: float) -> str:
    shown = math.ceil(reachable * 1e4 - 1e-6) / 1e4
    return (
        f"Expected `{name}` to be at least {shown:.4f}, all that can be reached with these least widths, divisor and "
        f"protected layers, but got {fraction}. Lower `minimum` or `divisor`, or protect fewer layers."
    )
