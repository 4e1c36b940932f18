"""From scores to masks of exactly the size that was asked for."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lomt.errors import ScoreError, UnknownNameError
from lomt.sparsity.baselines.masks import check_target

__all__ = ["SCOPES", "keep_highest", "split_like"]

SCOPES = ("model", "component")
"""Where weights compete: in the whole network, or within each part, which then all lose the same share."""


def keep_highest(
    scores: Mapping[str, Float[Tensor, "..."]],
    target: float,
    *,
    components: Mapping[str, str] | None = None,
    scope: str = "model",
) -> dict[str, Bool[Tensor, "..."]]:
    """Keep the highest scores so that exactly the target's share goes, to the nearest whole entry.

    Of equal scores those that come first stay.

    Args:
        scores: By name; comparable with each other.
        target: Share that goes, 0 to below 1.
        components: Part of the network by name, for scope ``"component"``.
        scope: One of `SCOPES`.

    Returns:
        Masks of the shapes of the scores, True where an entry stays.

    Raises:
        SparsityTargetError: If the target is out of range.
        UnknownNameError: If there is no such scope.
        ScoreError: If a score is not a number.
    """
    check_target(target)
    if scope not in SCOPES:
        raise UnknownNameError("scope", scope, SCOPES)
    sets: dict[str, dict[str, Tensor]] = {}
    for name, values in scores.items():
        part = (components or {})[name] if scope == "component" else ""
        sets.setdefault(part, {})[name] = values
    kept: dict[str, Tensor] = {}
    for members in sets.values():
        kept.update(split_like(members, _highest(members, target)))
    return {name: kept[name] for name in scores}


def split_like(
    like: Mapping[str, Tensor], flat: Float[Tensor, " _"] | Bool[Tensor, " _"]
) -> dict[str, Tensor]:
    """Cut a vector into pieces of the names' and shapes of `like`, in its order."""
    parts = flat.split([values.numel() for values in like.values()])
    return {name: part.reshape(like[name].shape) for name, part in zip(like, parts, strict=True)}


def _highest(scores: Mapping[str, Tensor], target: float) -> Tensor:
    flat = torch.cat([values.detach().flatten() for values in scores.values()])
    if flat.isnan().any():
        name = next(name for name, values in scores.items() if values.isnan().any())
        raise ScoreError(f"Expected the scores of `{name}` to be numbers, but some are not.")
    count = len(flat) - round(target * len(flat))
    keep = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    if count:
        # The least that stays; of those equal to it only as many as there is room for.
        level = -(-flat).kthvalue(count).values
        keep |= flat > level
        equal = (flat == level).nonzero().flatten()
        keep[equal[: count - int(keep.sum())]] = True
    return keep
