"""`lomt.prune`: to any budget, a latency measured on this machine among them, and in widths that run fast on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn

from lomt.compress.latency_search import prune_to_latency
from lomt.compress.reachable_plans import Masks
from lomt.deploy.fast_widths import measure_divisor
from lomt.errors import UnknownNameError
from lomt.pruning.check import attempt
from lomt.pruning.importance import make_importance
from lomt.pruning.interfaces import Importance
from lomt.pruning.origin import origin_of, set_origin
from lomt.pruning.preconditions import PruneError, given_budget
from lomt.pruning.prune import PruneResult, analyse, cut
from lomt.pruning.prune import prune as prune_to_fraction
from lomt.pruning.ranking import RANKINGS, Divisor, divisor_left
from lomt.structure import Inputs, Structure
from lomt.tasks.loss_gradients import Losses

__all__ = ["prune"]


def prune(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    channels: float | None = None,
    params: float | None = None,
    macs: float | None = None,
    latency_ms: float | None = None,
    importance: str | Importance = "magnitude",
    losses: Losses | None = None,
    divisor: Divisor | Literal["auto"] = None,
    ranking: str = "global",
    minimum: float = 0.1,
    protect: Sequence[str] = (),
    exact: bool = True,
    threads: int = 1,
) -> PruneResult:
    """Make a model smaller, and leave the given one as it is.

    What nobody reads goes first, which is exact: the outputs stay the same. Without a budget that is all. With
    one, the least important channels follow until the budget is met, which is lossy. Every cut is tried on a copy
    before it is made: coupled channels that break the forward pass, or whose removal is not what setting them to
    zero is, are set aside with the reason, and the rest goes on without them. What was measured on this machine
    stands in the plan's last step.

    Args:
        model: Any module; called as ``model(example_inputs)``, ``model(*example_inputs)`` or
            ``model(**example_inputs)``.
        example_inputs: A tensor, several, or several by argument name, on the model's device.
        channels: Largest fraction of all prunable channels to keep.
        params: Largest fraction of the parameters to keep.
        macs: Largest fraction of the multiply-accumulates to keep.
        latency_ms: Longest median time for the example inputs in onnxruntime on this machine's processor, in
            milliseconds, see :func:`lomt.compress.prune_to_latency`. A model that is as fast once exact removal is
            done loses no more.
        importance: Which channels matter; a name of `lomt.pruning.IMPORTANCES` or your own.
        losses: Losses of a few batches, for the importances that read gradients.
        divisor: Widths after a lossy cut are multiples of it; one number, or one by name of the coupled channels.
            By default multiples of 16, and 8 where the budget cannot be met otherwise. ``"auto"`` measures on this
            machine which widths run fast, see :func:`lomt.deploy.fast_widths.measure_divisor`.
        ranking: Channels are compared in the whole network (``"global"``), within what is shared and what is each
            output's own (``"component"``), or not across layers (``"layer"``).
        minimum: Least fraction of each layer's channels that a lossy cut leaves.
        protect: Layers, by dotted path or pattern, whose own channels stay.
        exact: Whether to remove what nobody reads.
        threads: Threads of onnxruntime in measurements.

    Returns:
        The smaller model and the plan.

    Raises:
        PruneError: More than one budget, or one out of range; the model has no parameters, all are frozen, or a
            weight is not finite.
        TraceError: The model does not run on the example inputs.
        UnknownNameError: A protected name matches nothing; no such importance or ranking.
        BudgetError: The budget cannot be met; the message says what can.
        UnsupportedLayerError: For `latency_ms`, the exporter to ONNX cannot express the model.

    Example:
        >>> import torch
        >>> block = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
        >>> result = prune(block, torch.rand(1, 3, 8, 8), channels=0.5)
        >>> result.model[0].out_channels, block[0].out_channels
        (8, 16)
    """
    budget = given_budget({"channels": channels, "params": params, "macs": macs, "latency_ms": latency_ms})
    scorer = make_importance(importance, losses) if isinstance(importance, str) else importance
    if ranking not in RANKINGS:
        raise UnknownNameError("ranking", ranking, RANKINGS)
    if threads < 1:
        raise PruneError(f"Expected `threads` to be at least 1, but got {threads}.")
    notes = []
    if isinstance(divisor, str):
        divisor, note = _fast_divisor(model, example_inputs, divisor, protect, threads if budget else 0)
        notes.append(note)
    if "latency_ms" not in budget:
        result = prune_to_fraction(
            model,
            example_inputs,
            channels=channels,
            params=params,
            macs=macs,
            importance=scorer,
            divisor=divisor,
            ranking=ranking,
            minimum=minimum,
            protect=protect,
            exact=exact,
        )
        return _noted(result, notes)
    # Proven beforehand: a search that runs into what cannot be cut would have to begin again.
    structure = analyse(model, example_inputs, protect=protect)
    latency = budget["latency_ms"]
    search = _Search(latency, example_inputs, structure, scorer, divisor, ranking, minimum, threads)
    result = cut(model, example_inputs, structure, search, exact=exact, protect=protect)
    return _noted(result, [*notes, search.note])


@dataclass
class _Search:
    """Chooses channels by the latency that is left."""

    latency_ms: float
    inputs: Inputs
    whole: Structure
    importance: Importance
    divisor: Divisor
    ranking: str
    minimum: float
    threads: int
    note: str = ""

    def __call__(self, structure: Structure, model: nn.Module) -> Mapping[str, Tensor]:
        def build(keep: Masks) -> nn.Module:
            tried = attempt(model, self.inputs, structure, keep)
            if tried.problem is not None:
                raise _CannotBeCut(keep)
            return tried.smaller

        try:
            found = prune_to_latency(
                model,
                self.inputs,
                self.latency_ms,
                scores=self.importance(structure, model),
                structure=structure,
                build=build,
                threads=self.threads,
                divisor=divisor_left(self.divisor, self.whole, structure),
                ranking=self.ranking,
                minimum=self.minimum,
            )
        except _CannotBeCut as found_out:
            return found_out.keep  # who asked finds out what fails, sets it aside, and asks again
        self.note = f"{found}, {_count(self.threads, 'thread')} of onnxruntime"
        return found.keep


class _CannotBeCut(Exception):
    """Channels that the model does not do without."""

    def __init__(self, keep: Masks) -> None:
        super().__init__()
        self.keep = keep


def _fast_divisor(
    model: nn.Module, inputs: Inputs, word: str, protect: Sequence[str], threads: int
) -> tuple[int, str]:
    """Measure the divisor and say so; without threads nothing is to be cut to a width."""
    if word != "auto":
        raise PruneError(f"Expected `divisor` to be a number, one by name, or 'auto', but got {word!r}.")
    if threads == 0:
        return 1, ""
    analyse(model, inputs, protect=protect)  # what is wrong with the model is said before it is timed
    report = measure_divisor(model, inputs, threads=threads)
    return report.divisor, (
        f"divisor {report.divisor} as measured on this machine with {_count(threads, 'thread')} of onnxruntime: "
        f"its multiples take {report.excess[report.divisor]:+.1%} time beside those of 32"
    )


def _noted(result: PruneResult, notes: Sequence[str]) -> PruneResult:
    """Write what was measured into the lossy step."""
    told = [note for note in notes if note]
    if not told or not result.plan.steps or result.plan.steps[-1].kind != "lossy":
        return result
    *earlier, last = result.plan.steps
    last = replace(last, what="; ".join([last.what, *told]))
    plan = replace(result.plan, steps=(*earlier, last))
    origin = origin_of(result.model)
    set_origin(result.model, replace(origin, plans=(*origin.plans[:-1], plan)))
    return replace(result, plan=plan)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
