"""The published baselines on single weights: global magnitude, LTH, IMP, SNIP and DiSparse, one table."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn

from lomt.errors import ScoreError, UnknownNameError
from lomt.sparsity.baselines.masks import (
    Masks,
    apply_masks,
    check_components,
    check_target,
    parts_of,
    prunable_weights,
)
from lomt.sparsity.baselines.saliency import loss_saliency, magnitudes
from lomt.sparsity.baselines.selection import keep_highest
from lomt.sparsity.baselines.union import found_kappa, union_scores
from lomt.tasks.loss_gradients import Losses, task_losses, total_loss

__all__ = [
    "BASELINES",
    "Baseline",
    "iterative_magnitude",
    "per_task_scores",
    "round_target",
    "weight_masks",
]

Weights = Mapping[str, nn.Parameter]
Serves = Mapping[str, Sequence[str]]
TaskScores = dict[str, dict[str, Float[Tensor, "..."]]]
Start = Literal["initial", "trained"]


@dataclass(frozen=True)
class Baseline:
    """What sets a published method apart, apart from its formula.

    Args:
        scored_on: Weights on which it decides: those before training, or the trained ones.
        goes_on_from: Weights from which the sparse network is trained.
        reads: What it needs beside the weights: gradients of all ``"losses"`` together, those of each of the
            ``"tasks"``, which task uses which weight (``"serves"``), or nothing.
        is_iterative: Whether it takes several rounds of cutting and training.
    """

    scored_on: Start
    goes_on_from: Start
    reads: Literal["losses", "tasks", "serves"] | None = None
    is_iterative: bool = False


BASELINES: Mapping[str, Baseline] = {
    "global_magnitude": Baseline("trained", "trained"),
    "imp": Baseline("trained", "initial", is_iterative=True),
    "lth": Baseline("trained", "initial"),
    "snip": Baseline("initial", "initial", reads="losses"),
    "disparse_static": Baseline("initial", "initial", reads="tasks"),
    "disparse_pretrained": Baseline("trained", "trained", reads="serves"),
}
"""References: magnitude and IMP, Frankle and Carbin, "The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural
Networks", 2019, https://arxiv.org/abs/1803.03635 (global magnitude, rewinding; one round is LTH here as in AdapMTL's
tables, several are IMP); SNIP, https://arxiv.org/abs/1810.02340; DiSparse, https://arxiv.org/abs/2206.04662."""


def weight_masks(
    method: str,
    model: nn.Module,
    target: float,
    *,
    losses: Losses | None = None,
    serves: Serves | None = None,
    component_of: Callable[[str], str] | None = None,
    components: Collection[str] | None = None,
    scope: str = "model",
    within: Mapping[str, Bool[Tensor, "..."]] | None = None,
) -> Masks:
    """Decide which weights stay, by a method's name; the model is left as it is.

    Exactly the target's share of the weights goes, to the nearest weight.

    Args:
        method: A key of `BASELINES`. For ``"imp"`` this is one of its rounds, see `iterative_magnitude`.
        model: With the weights that the method decides on, see `Baseline.scored_on`.
        target: Share of all convolutions' weights that goes, 0 to below 1.
        losses: For SNIP and static DiSparse: the losses of some batches by task.
        serves: For pretrained DiSparse: by parameter, the tasks that depend on it, as
            :attr:`lomt.structure.Structure.serves` lists them.
        component_of: Part of the network of a parameter, such as ``model.component_of``.
        components: Parts that may become sparse, of which the target is a share; None for all.
        scope: ``"model"``: weights compete in the whole network. ``"component"``: each part loses the same share.
        within: Masks of an earlier round: what is gone stays gone.

    Raises:
        UnknownNameError: If there is no such method, component or scope.
        SparsityTargetError: If the target is out of range, or there is nothing that may go.
        ScoreError: If what the method reads is not given, or has no finite gradient.

    Example:
        >>> model = nn.Conv2d(4, 8, 3)
        >>> weight_masks("global_magnitude", model, 0.75).total
        MaskedPart(name='total', count=288, zero=216)
    """
    if method not in BASELINES:
        raise UnknownNameError("method", method, BASELINES)
    check_target(target)
    weights = prunable_weights(model)
    parts = parts_of(weights, component_of)
    if components is not None:
        check_components(components, parts.values())
        weights = {name: weight for name, weight in weights.items() if parts[name] in components}
    scores = weight_scores(method, model, weights, losses, serves)
    if within is not None:
        gone = {name: ~mask.to(scores[name].device) for name, mask in within.items()}
        scores = {
            name: own.masked_fill(gone[name], -float("inf")) if name in gone else own
            for name, own in scores.items()
        }
    keep = keep_highest(scores, target, components=parts, scope=scope)
    facts = {"kappa": found_kappa(scores, keep)} if method.startswith("disparse") else {}
    return Masks(method, target, "weights", {name: mask.cpu() for name, mask in keep.items()}, parts, facts)


def weight_scores(
    method: str, model: nn.Module, weights: Weights, losses: Losses | None, serves: Serves | None
) -> dict[str, Float[Tensor, "..."]]:
    """Return what a method makes of each weight; the highest stay."""
    reads = BASELINES[method].reads
    if reads is None:
        return dict(magnitudes(weights))
    if reads == "losses":
        found = loss_saliency(model, weights, _given(method, "losses", losses), total_loss)["all"]
        return {name: found.get(name, weight.detach() * 0) for name, weight in weights.items()}
    tasks = per_task_scores(method, model, weights, losses, serves)
    return union_scores(tasks, {name: tuple(weight.shape) for name, weight in weights.items()})


def per_task_scores(
    method: str, model: nn.Module, weights: Weights, losses: Losses | None, serves: Serves | None
) -> TaskScores:
    """Return what each task by itself makes of the weights that it uses.

    Static DiSparse looks at the gradients of each task's loss, pretrained DiSparse at the weights' sizes within what
    the task uses, as the paper does on NYU-v2 and Cityscapes; with `losses` in place of `serves` it takes
    :math:`|g| w^2`, as the paper does on Taskonomy.

    Raises:
        ScoreError: If what the method reads is not given, or has no finite gradient.
    """
    if method == "disparse_pretrained" and serves is not None:
        sizes, tasks = magnitudes(weights), dict.fromkeys(t for name in weights for t in serves.get(name, ()))
        return {
            task: {name: own for name, own in sizes.items() if task in serves.get(name, ())} for task in tasks
        }
    needed = "serves` or `losses" if method == "disparse_pretrained" else "losses"
    power = 2 if method == "disparse_pretrained" else 1
    return loss_saliency(model, weights, _given(method, needed, losses), task_losses, power=power)


def iterative_magnitude(
    model: nn.Module,
    target: float,
    *,
    rounds: int,
    train: Callable[[nn.Module, Masks], None],
    rewind_to: Mapping[str, Tensor] | None = None,
    component_of: Callable[[str], str] | None = None,
    scope: str = "model",
) -> Masks:
    r"""Cut by magnitude in rounds, each of which takes the same share of what is left, and train in between.

    .. math:: s_i = 1 - (1 - s)^{i / n}

    Afterwards the model holds the weights from which the sparse network is to be trained, with the masks applied:
    those rewound to, else those trained in the last round.

    Args:
        model: Trained; changed in place.
        target: :math:`s`, share of the weights that goes in the end.
        rounds: :math:`n`; with one round and rewinding this is LTH.
        train: Trains the model with the masks in place, between rounds.
        rewind_to: A state of the model, usually the initial one, to which the weights that stay are set back after
            every cut.
        component_of: Part of the network of a parameter.
        scope: Where weights compete, see `weight_masks`.

    Returns:
        The masks of the last round.

    Raises:
        ValueError: If there are no rounds.
        SparsityTargetError: If the target is out of range, or there is nothing that may go.

    References:
        Frankle and Carbin, "The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks", 2019,
        https://arxiv.org/abs/1803.03635, section 2, strategy of iterative pruning with resetting.
    """
    if rounds < 1:
        raise ValueError(f"Expected `rounds` to be at least 1, but got {rounds}.")
    check_target(target)
    masks = None
    for number in range(1, rounds + 1):
        if masks is not None:
            train(model, masks)
        masks = weight_masks(
            "imp",
            model,
            round_target(target, number, rounds),
            component_of=component_of,
            scope=scope,
            within=masks.keep if masks is not None else None,
        )
        if rewind_to is not None:
            model.load_state_dict(rewind_to)
        apply_masks(model, masks.keep)
    assert masks is not None, "there is a round"
    return masks


def round_target(target: float, number: int, rounds: int) -> float:
    """Return the share that is gone after a round, of which each takes the same share of what is left."""
    return target if number == rounds else float(1 - (1 - target) ** (number / rounds))


def _given(method: str, name: str, losses: Losses | None) -> Losses:
    if losses is None:
        raise ScoreError(
            f"Expected `{name}` for method `{method}`, but got None. "
            "Give the losses of a few batches by task, or take method `global_magnitude`."
        )
    return losses
