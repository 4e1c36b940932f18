"""Prune any model: first what changes nothing, then, if asked, down to a budget; planned, proven, then done."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lomt.module_modes import modes_kept
from lomt.pruning.apply import apply_plan, freed_sizes, unshare
from lomt.pruning.budget import choose_channels, count_channels
from lomt.pruning.check import attempt, prove
from lomt.pruning.compose import compose
from lomt.pruning.dead_layers import find_dead, saved
from lomt.pruning.importance import make_importance
from lomt.pruning.inspection import component_changes
from lomt.pruning.interfaces import Importance
from lomt.pruning.origin import add_plan
from lomt.pruning.plan import AttributeChange, PruningPlan, Replacement, Step, StepKind
from lomt.pruning.preconditions import PruneError, check_model, check_outputs, given_budget
from lomt.pruning.ranking import BudgetError, Divisor, divisor_left
from lomt.pruning.zero_channels import is_all_zero, unread_channels
from lomt.structure import (
    CoupledChannels,
    Inputs,
    Structure,
    copy_model,
    named_outputs,
    run_model,
    trace_structure,
)
from lomt.tasks.loss_gradients import Losses

__all__ = ["PruneError", "PruneResult", "analyse", "prune"]

Choose = Callable[[Structure, nn.Module], Mapping[str, Tensor]]
"""From a structure and its model to masks of the channels that stay."""

_ROUNDS = 5
_EXACT = 1e-4  # relative, in float32; what is proven is the structure


@dataclass(frozen=True)
class PruneResult:
    """A smaller model and what made it so.

    Args:
        model: The smaller model, in the mode of the given one.
        plan: What was taken out of the given one, and why not more.
    """

    model: nn.Module
    plan: PruningPlan

    def __str__(self) -> str:
        return str(self.plan)


def prune(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    channels: float | None = None,
    params: float | None = None,
    macs: float | None = None,
    importance: str | Importance = "magnitude",
    losses: Losses | None = None,
    divisor: Divisor = None,
    ranking: str = "global",
    minimum: float = 0.1,
    protect: Sequence[str] = (),
    exact: bool = True,
) -> PruneResult:
    """Make a model smaller, and leave the given one as it is.

    What nobody reads goes first, which is exact: the outputs stay the same. Without a budget that is all. With
    one, the least important channels follow until the budget is met, which is lossy. Every cut is tried on a copy
    before it is made: coupled channels that break the forward pass, or whose removal is not what setting them to
    zero is, are set aside with the reason, and the rest goes on without them.

    Args:
        model: Any module; called as ``model(example_inputs)``, ``model(*example_inputs)`` or
            ``model(**example_inputs)``.
        example_inputs: A tensor, several, or several by argument name, on the model's device.
        channels: Largest fraction of all prunable channels to keep.
        params: Largest fraction of the parameters to keep.
        macs: Largest fraction of the multiply-accumulates to keep.
        importance: Which channels matter; a name of `lomt.pruning.IMPORTANCES` or your own.
        losses: Losses of a few batches, for the importances that read gradients.
        divisor: Widths after a lossy cut are multiples of it; by default of 16, and 8 where the budget cannot be met
            otherwise, see :func:`lomt.pruning.ranking.rank_channels`.
        ranking: Channels are compared in the whole network (``"global"``), within what is shared and what is each
            output's own (``"component"``), or not across layers (``"layer"``).
        minimum: Least fraction of each layer's channels that a lossy cut leaves.
        protect: Layers, by dotted path or pattern, whose own channels stay.
        exact: Whether to remove what nobody reads.

    Returns:
        The smaller model and the plan.

    Raises:
        PruneError: The model has no parameters, all are frozen, or a weight or output is not finite.
        TraceError: The model does not run on the example inputs.
        UnknownNameError: A protected name matches nothing; no such importance or ranking.
        BudgetError: The budget cannot be met; the message says what can.

    Example:
        >>> block = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
        >>> result = prune(block, torch.rand(1, 3, 8, 8), channels=0.5)
        >>> result.model[0].out_channels, block[0].out_channels
        (8, 16)
    """
    given = given_budget({"channels": channels, "params": params, "macs": macs})

    def choose(structure: Structure, smaller: nn.Module) -> Mapping[str, Tensor]:
        scorer = make_importance(importance, losses) if isinstance(importance, str) else importance
        return choose_channels(
            structure,
            scorer(structure, smaller),
            divisor=divisor_left(divisor, whole, structure),
            ranking=ranking,
            minimum=minimum,
            **_rescaled(given, structure, whole),  # type: ignore[arg-type]
        )

    whole = _traced(model, example_inputs, protect)
    return cut(model, example_inputs, whole, choose if given else None, exact=exact, protect=protect)


def analyse(model: nn.Module, example_inputs: Inputs, *, protect: Sequence[str] = ()) -> Structure:
    """Trace a model and set aside what cannot be proven; what `lomt inspect` shows.

    Args:
        model: Any module.
        example_inputs: A tensor, several, or several by argument name.
        protect: Layers whose own channels stay.

    Raises:
        PruneError: The model has no parameters, all are frozen, or a weight or output is not finite.
        TraceError: The model does not run on the example inputs.
        UnknownNameError: A protected name matches nothing.
    """
    return prove(model, example_inputs, _traced(model, example_inputs, protect))


def _traced(model: nn.Module, inputs: Inputs, protect: Sequence[str]) -> Structure:
    """Trace a model that can be pruned; say what is wrong with one that cannot."""
    check_model(model, inputs)
    structure = trace_structure(model, inputs, protect=protect)
    check_outputs(structure.example_outputs)
    return structure


def cut(
    model: nn.Module,
    inputs: Inputs,
    structure: Structure,
    choose: Choose | None,
    *,
    exact: bool = True,
    protect: Sequence[str] = (),
) -> PruneResult:
    """Remove what nobody reads, then what ``choose`` does not keep.

    Args:
        model: Left as it is.
        inputs: Example inputs.
        structure: Traced from the model.
        choose: Picks the channels of a lossy cut.
        exact: Whether to remove what nobody reads.
        protect: Layers that are not removed as a whole.
    """
    stages = _Stages(model, inputs, structure)
    if exact:
        stages.remove_unread()
        stages.remove_dead(protect)
    if choose is not None:
        stages.remove_least(choose)
    return stages.result()


class _Stages:
    """Cuts in a row: each made of what the one before left."""

    def __init__(self, model: nn.Module, inputs: Inputs, structure: Structure) -> None:
        self._given, self._inputs = model, inputs
        self._model, self._structure, self._whole = model, structure, structure
        self._plans: list[PruningPlan] = []
        self._layer_macs = structure.layer_macs()

    def remove_unread(self) -> None:
        self._structure, keep, smaller = _proven(self._model, self._inputs, self._structure, unread_channels)
        if keep:
            plan = _plan(self._model, self._structure, keep)
            self._apply(plan, smaller, "exact", "channels nobody reads")
            self._trace_again()

    def remove_dead(self, protect: Sequence[str]) -> None:
        if not self._structure.unused_layers and not _has_zero_layer(self._model):
            return
        dead = find_dead(self._model, self._inputs, self._structure, protect=protect)
        if dead:
            plan = _plan(self._model, self._structure, {}, dead)
            smaller = apply_plan(self._model, plan)
            self._apply(plan, smaller, "exact", "layers that change nothing")
            self._trace_again()

    def remove_least(self, choose: Choose) -> None:
        def choose_some(structure: Structure, model: nn.Module) -> Mapping[str, Tensor]:
            if not structure.prunable:
                raise BudgetError(_nothing_left(structure))
            return choose(structure, model)

        self._structure, keep, smaller = _proven(self._model, self._inputs, self._structure, choose_some)
        plan = _plan(self._model, self._structure, keep)
        self._apply(plan, smaller, "lossy", "least important channels")
        self._layer_macs = self._structure.layer_macs(keep)

    def result(self) -> PruneResult:
        plan = compose(self._plans) if self._plans else _plan(self._model, self._structure, {})
        smaller = copy_model(self._model) if self._model is self._given else self._model
        kept = {name: len(channels) for name, channels in plan.keep.items()}
        components = component_changes(self._whole, self._given, smaller, kept, self._layer_macs)
        plan = replace(plan, components=components)
        add_plan(smaller, plan)
        return PruneResult(smaller, plan)

    def _apply(self, plan: PruningPlan, smaller: nn.Module, kind: StepKind, what: str) -> None:
        self._model = smaller
        change = _output_change(self._structure.example_outputs, self._model, self._inputs)
        if kind == "exact" and max(change.values(), default=0.0) > _EXACT:
            raise PruneError(
                "Expected removal of what nobody reads to leave the outputs as they are, but their relative change is "
                f"{change}. Prune with exact=False, and report the model."
            )
        removed = {name: plan.counts[name] - len(kept) for name, kept in plan.keep.items()}
        self._plans.append(replace(plan, steps=(Step(kind, what, change, removed),)))

    def _trace_again(self) -> None:
        before = self._structure
        after = trace_structure(self._model, self._inputs)
        reasons = {
            own.name: old.protected
            for own in after.coupled
            for old in _counterparts(own, before)
            if old.protected is not None
        }
        self._structure = after.protecting(reasons).freeing(before.freed)
        self._layer_macs = self._structure.layer_macs()


def _proven(
    model: nn.Module, inputs: Inputs, structure: Structure, choose: Choose
) -> tuple[Structure, Mapping[str, Tensor], nn.Module]:
    """Choose channels, try the cut, set aside what fails, and choose again.

    Returns:
        The structure with more that is protected, what to keep, and the model that is left.
    """
    text = ""
    for _ in range(_ROUNDS):
        keep = choose(structure, model)
        if not keep:
            return structure, keep, model
        tried = attempt(model, inputs, structure, keep)
        if tried.problem is None:
            unshare(tried.smaller, model)
            return structure, keep, tried.smaller
        text = tried.problem.text
        proven = prove(model, inputs, structure)
        if proven is structure:  # halves pass and this cut does not: these widths are what it does not bear
            proven = structure.protecting(_one_by_one(model, inputs, structure, keep, text))
        structure = proven
    raise PruneError(f"Expected a cut that the model bears, but after {_ROUNDS} attempts it {text}.")


def _one_by_one(
    model: nn.Module, inputs: Inputs, structure: Structure, keep: Mapping[str, Tensor], reason: str
) -> dict[str, str]:
    alone = {name: attempt(model, inputs, structure, {name: mask}).problem for name, mask in keep.items()}
    return {name: found.text for name, found in alone.items() if found} or dict.fromkeys(keep, reason)


def _reasons(structure: Structure) -> dict[str, str]:
    return {own.name: own.protected for own in structure.coupled if own.protected is not None}


def _counterparts(own: CoupledChannels, structure: Structure) -> list[CoupledChannels]:
    """The coupled channels of another trace that lie in the same dimensions of the same tensors.

    Names tell them apart where several do: heads and their widths lie in the same weights.
    """
    place = _place(own)
    found = [other for other in structure.coupled if _place(other) == place]
    named = [other for other in found if other.name == own.name and len(found) > 1]
    return named or found


def _place(own: CoupledChannels) -> frozenset[tuple[str, int]]:
    return frozenset((slices.tensor, slices.dim) for slices in own.slices)


def _rescaled(given: Mapping[str, float], now: Structure, whole: Structure) -> dict[str, float]:
    """Express fractions of the given model as fractions of what exact removal left.

    Channels that were set aside since count for neither: they are not prunable.
    """
    set_aside = {
        old.name: own.protected
        for own in now.coupled
        if own.protected is not None
        for old in _counterparts(own, whole)
    }
    scales: Mapping[str, Callable[[Structure], int]] = {
        "channels": lambda own: count_channels(own, {}),
        "params": lambda own: own.params(),
        "macs": lambda own: own.macs(),
    }
    whole = whole.protecting(set_aside)
    shares = {name: scales[name](whole) / max(scales[name](now), 1) for name in given}
    return {name: min(1.0, value * shares[name]) for name, value in given.items()}


def _plan(
    model: nn.Module, structure: Structure, keep: Mapping[str, Tensor], dead: Sequence[Replacement] = ()
) -> PruningPlan:
    resolved = structure.resolve(keep)
    layers = structure.layer_macs(keep)
    params = structure.params(keep)
    if dead:
        gone, quiet = saved(model, structure, dead)
        params -= gone
        layers = {layer: macs for layer, macs in layers.items() if layer not in quiet}
    return PruningPlan(
        keep={name: tuple(mask.nonzero().flatten().tolist()) for name, mask in keep.items()},
        tensors={
            name: {dim: tuple(positions.tolist()) for dim, positions in dims.items()}
            for name, dims in resolved.tensors.items()
        },
        attributes=tuple(AttributeChange(*change) for change in resolved.attributes),
        replaced=(*freed_sizes(model, resolved), *dead),
        protected=_reasons(structure),
        counts={own.name: own.count for own in structure.coupled},
        params_before=structure.params(),
        params_after=params,
        macs_before=structure.macs(),
        macs_after=sum(layers.values()),
    )


def _nothing_left(structure: Structure) -> str:
    reasons = Counter(_reasons(structure).values()).most_common(3)
    told = "; ".join(f"{count} {reason}" for reason, count in reasons) or "there are none"
    return f"Expected coupled channels that may be pruned, but all {len(structure.coupled)} are protected: {told}."


def _has_zero_layer(model: nn.Module) -> bool:
    """Whether a layer ignores its input. Norms at zero do not count: many networks begin with them."""
    return any(own.ndim > 1 and is_all_zero(own) for own in model.parameters())


def _output_change(before: Mapping[str, Tensor], after: nn.Module, inputs: Inputs) -> dict[str, float]:
    """Largest change of every output, relative to its largest value, in eval mode."""
    with modes_kept(after), torch.no_grad():
        found = named_outputs(run_model(after.eval(), inputs))
    changes = {}
    for name, value in before.items():
        if value.is_floating_point() and value.numel():
            largest = max(float(value.abs().max()), 1e-30)
            changes[name] = float((found[name] - value).abs().max()) / largest
    return changes
