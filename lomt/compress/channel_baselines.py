"""The published baselines on whole channels: scores as in pruning, masks as in sparsity."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lomt.errors import ScoreError, SparsityTargetError, UnknownNameError
from lomt.pruning.budget import choose_channels, count_channels
from lomt.pruning.importance import GroupMagnitude, Taylor
from lomt.pruning.ranking import BudgetError, rank_channels
from lomt.pruning.task_importance import COMBINATIONS, task_saliency
from lomt.sparsity.baselines import (
    BASELINES,
    MaskAgreement,
    Masks,
    check_components,
    check_target,
    mask_agreement,
    task_masks,
)
from lomt.structure import CoupledChannels, Structure
from lomt.tasks.loss_gradients import Losses

__all__ = ["MEASURES", "ChannelBaseline", "consumer_masks", "removable_part"]

Measure = Literal["removable", "params", "macs"]
MEASURES = ("removable", "params", "macs")
"""What a target is a share of: channels that can go exactly, the network's parameters, its MACs."""

Scores = dict[str, Float[Tensor, " _"]]


@dataclass(frozen=True)
class ChannelBaseline:
    """A published method on coupled channels: a channel's score is summed over all of its slices.

    Only channels whose removal is exact compete. A target is met from above, by as little as whole channels allow.

    Args:
        method: A key of `lomt.sparsity.baselines.BASELINES`.
        measure: What the target is a share of; one of `MEASURES`.
        losses: For SNIP and static DiSparse: the losses of some batches by task.
        divisor: Widths that are left are multiples of it.
        minimum: Least share of each layer's channels that stays, 0 to 1; at least one stays anyway.

    Raises:
        UnknownNameError: If there is no such method or measure.
        ScoreError: If the method reads losses and there are none.

    References:
        As for :data:`lomt.sparsity.baselines.BASELINES`; all are published on single weights.
    """

    method: str
    measure: str = "removable"
    losses: Losses | None = None
    divisor: int = 1
    minimum: float = 0.0
    _reads_losses: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.method not in BASELINES:
            raise UnknownNameError("method", self.method, BASELINES)
        if self.measure not in MEASURES:
            raise UnknownNameError("measure", self.measure, MEASURES)
        reads = BASELINES[self.method].reads in ("losses", "tasks")
        object.__setattr__(self, "_reads_losses", reads)
        if reads and self.losses is None:
            raise ScoreError(
                f"Expected `losses` for method `{self.method}`, but got None. "
                "Give the losses of a few batches by task, or take method `global_magnitude`."
            )

    def masks(
        self,
        model: nn.Module,
        structure: Structure,
        target: float,
        *,
        component_of: Callable[[str], str] | None = None,
        components: Collection[str] | None = None,
        within: Mapping[str, Bool[Tensor, " _"]] | None = None,
    ) -> Masks:
        """Decide which channels stay; the model is left as it is.

        Args:
            model: With the weights that the method decides on.
            structure: What was proven of it, see :func:`lomt.pruning.analyse`.
            target: Share that goes, 0 to below 1.
            component_of: Part of the network by parameter; the structure's own parts without it.
            components: Parts that may lose channels; None for all. A target of channels is a share of theirs.
            within: Masks of an earlier round: what is gone stays gone.

        Returns:
            Masks of all channels that may go, by name of the coupled channels.

        Raises:
            SparsityTargetError: If the target is out of range or reach, or no channel may go.
            UnknownNameError: If there is no such component.
            ScoreError: If a weight, a loss or a gradient is not finite.
        """
        check_target(target)
        structure = removable_part(structure)
        parts = {
            own.name: component_of(_first(own)) if component_of else structure.component(own.name)
            for own in structure.prunable
        }
        if components is not None:
            check_components(components, parts.values())
            structure = structure.protecting(
                {name: "its part is to stay" for name, part in parts.items() if part not in components}
            )
        tasks = self.task_scores(model, structure)
        scores = self._scores(model, structure) if tasks is None else _union(tasks, structure)
        chosen = self._chosen(structure, _without(scores, within or {}), target)
        keep = {
            own.name: chosen.get(own.name, torch.ones(own.count, dtype=torch.bool))
            for own in structure.prunable
        }
        facts = {} if tasks is None else {"kappa": _kappa(scores, keep)}
        return Masks(self.method, target, "channels", keep, parts, facts)

    def task_scores(self, model: nn.Module, structure: Structure) -> dict[str, Scores] | None:
        """Return what each task makes of the channels that it uses; None where the method knows no tasks."""
        reads = BASELINES[self.method].reads
        if reads == "tasks":
            assert self.losses is not None, "checked when made"
            return task_saliency(structure, model, self.losses)
        if reads != "serves":
            return None
        sizes = GroupMagnitude()(structure, model)
        used = {own.name: _tasks_of(structure, own.name) for own in structure.prunable}
        return {
            task: {name: own for name, own in sizes.items() if task in used[name]}
            for task in structure.outputs
        }

    def agreement(self, model: nn.Module, structure: Structure, masks: Masks) -> MaskAgreement | None:
        """Compare what each task alone would keep at the masks' kappa; None where the method knows no tasks."""
        tasks = self.task_scores(model, removable_part(structure))
        return None if tasks is None else mask_agreement(task_masks(tasks, masks.facts["kappa"]))

    def _scores(self, model: nn.Module, structure: Structure) -> Scores:
        if self._reads_losses:
            assert self.losses is not None, "checked when made"
            return Taylor(self.losses)(structure, model)
        return GroupMagnitude()(structure, model)

    def _chosen(self, structure: Structure, scores: Scores, target: float) -> dict[str, Tensor]:
        budget = {"channels" if self.measure == "removable" else self.measure: 1 - target}
        try:
            return choose_channels(
                structure,
                scores,
                divisor=self.divisor,
                minimum=self.minimum,
                channels=budget.get("channels"),
                params=budget.get("params"),
                macs=budget.get("macs"),
            )
        except BudgetError as error:
            most = self._most(structure, scores)
            raise SparsityTargetError(
                f"Expected a target of at most {most:.4f} of `{self.measure}`, all that can go with these least "
                f"widths, divisor and protected layers, but got {target}. Ask for less, or lower `minimum` or "
                "`divisor`."
            ) from error

    def _most(self, structure: Structure, scores: Scores) -> float:
        """Return the largest share that can go, rounded down."""
        order = rank_channels(structure, scores, divisor=self.divisor, minimum=self.minimum)
        least = order.keep(order.removed(len(order.order)))
        costs: Mapping[str, Callable[[Mapping[str, Tensor]], int]] = {
            "removable": lambda keep: count_channels(structure, keep),
            "params": structure.params,
            "macs": structure.macs,
        }
        cost = costs[self.measure]
        return int(1e4 * (1 - cost(least) / cost({}))) / 1e4


def removable_part(structure: Structure) -> Structure:
    """Return the structure with all channels protected whose removal cannot be exact.

    Raises:
        SparsityTargetError: If none are left.
    """
    lossy = {own.name: "its removal is not exact" for own in structure.prunable if not own.is_exact}
    structure = structure.protecting(lossy)
    if not structure.prunable:
        raise SparsityTargetError(
            "Expected the model to have channels that can be removed exactly, but it has none. "
            "`lomt inspect` says what protects each; take granularity `unstructured`, or leave the stage out."
        )
    return structure


def consumer_masks(
    structure: Structure, model: nn.Module, keep: Mapping[str, Bool[Tensor, " _"]]
) -> dict[str, Bool[Tensor, "..."]]:
    """Return which weights stay so that nobody reads the channels that do not.

    Args:
        structure: Traced from the model.
        model: For the shapes of its parameters.
        keep: By name of the coupled channels.

    Returns:
        Masks by parameter, of those that lose something.
    """
    parameters = dict(model.named_parameters())
    masks: dict[str, Tensor] = {}
    for name, mask in keep.items():
        if bool(mask.all()):
            continue
        for part in structure.by_name[name].slices:
            if part.role != "consumer" or part.tensor not in parameters:
                continue
            shape = parameters[part.tensor].shape
            stays = (part.owner < 0) | mask[part.owner.clamp(min=0)]
            own = stays.reshape([-1 if dim == part.dim else 1 for dim in range(len(shape))]).expand(shape)
            masks[part.tensor] = masks[part.tensor] & own if part.tensor in masks else own.clone()
    return masks


def _union(tasks: Mapping[str, Scores], structure: Structure) -> Scores:
    """Combine by DiSparse's rule; what no task uses goes first."""
    scores = COMBINATIONS["union"](tasks, {})
    return {
        own.name: scores.get(own.name, torch.zeros(own.count, dtype=torch.float64))
        for own in structure.prunable
    }


def _without(scores: Scores, within: Mapping[str, Tensor]) -> Scores:
    """Put what is gone already below everything else; no score is below 0."""
    return {
        name: own.masked_fill(~within[name], -1.0) if name in within else own for name, own in scores.items()
    }


def _kappa(scores: Scores, keep: Mapping[str, Tensor]) -> float:
    """Return the fraction at which the tasks' union has as many channels as were kept."""
    count = sum(int(mask.sum()) for mask in keep.values())
    ordered = torch.cat([scores[name] for name in keep]).sort(descending=True).values
    return float(1 - ordered[count - 1])


def _first(own: CoupledChannels) -> str:
    """Return the weight that is named when one asks where channels are computed."""
    return next((part.tensor for part in own.slices if part.role == "producer"), own.slices[0].tensor)


def _tasks_of(structure: Structure, name: str) -> frozenset[str]:
    own = structure.by_name[name]
    parts = [part for part in own.slices if part.role == "producer"] or own.slices
    return frozenset(output for part in parts for output in structure.serves.get(part.tensor, ()))
