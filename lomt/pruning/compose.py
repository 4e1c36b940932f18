"""Two cuts in a row as one."""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

from lomt.pruning.plan import PruningPlan

__all__ = ["compose"]


def compose(plans: Sequence[PruningPlan]) -> PruningPlan:
    """Return the plan that does at once what several do one after the other.

    Args:
        plans: At least one; each was made for the model that the one before left.
    """
    return reduce(_both, plans)


def _both(first: PruningPlan, second: PruningPlan) -> PruningPlan:
    tensors = {name: dict(dims) for name, dims in first.tensors.items()}
    for name, dims in second.tensors.items():
        own = tensors.setdefault(name, {})
        for dim, kept in dims.items():
            own[dim] = tuple(own[dim][place] for place in kept) if dim in own else kept
    keep, counts = dict(first.keep), dict(first.counts)
    for name in dict.fromkeys((*second.counts, *second.keep)):
        place = name if _is_same(first, second, name) else f"{name} (cut again)"
        if name in second.counts:
            counts.setdefault(place, second.counts[name])
        if name in second.keep:
            kept = second.keep[name]
            keep[place] = tuple(keep[place][channel] for channel in kept) if place in keep else kept
    attributes = {
        (own.module, own.attribute, own.index): own for own in (*first.attributes, *second.attributes)
    }
    return replace(
        second,
        keep=keep,
        tensors=tensors,
        attributes=tuple(attributes.values()),
        replaced=(*first.replaced, *second.replaced),
        protected={**second.protected, **first.protected},
        counts=counts,
        params_before=first.params_before,
        macs_before=first.macs_before,
        steps=(*first.steps, *second.steps),
    )


def _is_same(first: PruningPlan, second: PruningPlan, name: str) -> bool:
    """Whether coupled channels have their name still: what has a single channel left gives its name away."""
    left = len(first.keep[name]) if name in first.keep else first.counts.get(name)
    return left is None or left == second.counts.get(name, left)
