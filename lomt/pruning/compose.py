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
    keep = dict(first.keep)
    for name, kept in second.keep.items():
        keep[name] = tuple(keep[name][place] for place in kept) if name in keep else kept
    attributes = {(own.module, own.attribute, own.index): own for own in (*first.attributes, *second.attributes)}
    return replace(
        second,
        keep=keep,
        tensors=tensors,
        attributes=tuple(attributes.values()),
        replaced=(*first.replaced, *second.replaced),
        protected={**second.protected, **first.protected},
        counts={**second.counts, **first.counts},
        params_before=first.params_before,
        macs_before=first.macs_before,
        steps=(*first.steps, *second.steps),
    )
