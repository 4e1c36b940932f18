"""Prove that channels can be taken out: on a copy, against the same network with their slices set to zero.

A network that has lost channels must compute what it computed with all slices of these channels at zero. Layers
that take statistics over channels (LayerNorm, means) divide by fewer of them afterwards; for the proof alone
they divide by as many as before, so that equality is expected there too, and index bookkeeping is tested in
every layer.
"""

import math
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lomt.module_modes import modes_kept
from lomt.pruning.apply import shrink, slice_tensor
from lomt.pruning.fixed_counts import FixedCounts
from lomt.pruning.masked_weights import MaskedWeights
from lomt.pruning.zero_channels import is_all_zero
from lomt.structure import (
    CoupledChannels,
    Inputs,
    Resolved,
    Structure,
    copy_model,
    named_outputs,
    named_tensors,
    run_model,
)

__all__ = ["Attempt", "Problem", "attempt", "half_of", "prove"]

_TOLERANCE = 1e-3
_ROUNDING = 0.1  # a smaller difference may be rounding in a deep network: float64 tells
_MOST_FAILURES = 2


def prove(model: nn.Module, inputs: Inputs, structure: Structure, *, seed: int = 0) -> Structure:
    """Try to take half of the channels out of everything prunable.

    What fails is set aside with its reason. Where a module breaks that writes sizes out in a reshape, its
    ``forward`` is tried with these sizes left free before that.

    Args:
        model: In any mode; left as it is.
        inputs: Example inputs.
        structure: Of the model.
        seed: Of the choice of channels and of the values that stand in for parameters at zero.

    Returns:
        The structure with more that is protected, and with the modules whose sizes have to be left free.
    """
    return _Proof(model, inputs, structure, seed).run()


@dataclass(frozen=True)
class Problem:
    """What is wrong with a cut.

    Args:
        text: A reason, to be read after the name of what was cut.
        module: Dotted path of the module that broke, where one did.
        error: Relative difference of an output, infinite where there is none to compare.
    """

    text: str
    module: str | None = None
    error: float = math.inf


@dataclass(frozen=True)
class Attempt:
    """A cut that was tried.

    Args:
        problem: What is wrong with it; ``None`` if nothing is.
        smaller: The model without the channels, in the mode of the given one; it shares with that one the parameters
            that lost nothing.
    """

    problem: Problem | None
    smaller: nn.Module


def attempt(
    model: nn.Module, inputs: Inputs, structure: Structure, keep: Mapping[str, Tensor], *, seed: int = 0
) -> Attempt:
    """Take channels out of a copy, and see whether anything is wrong with it.

    Args:
        model: In any mode; left as it is.
        inputs: Example inputs.
        structure: Of the model.
        keep: Mask by name.
        seed: Of the values that stand in for parameters at zero.
    """
    tried = _attempt(model, inputs, structure, keep, seed, _TOLERANCE)
    if tried.problem is None or tried.problem.error > _ROUNDING or not _is_float32(model):
        return tried
    with suppress(RuntimeError):  # a model that insists on its own precision
        exact = _attempt(copy_model(model).double(), _doubled(inputs), structure, keep, seed, _TOLERANCE**2)
        return replace(tried, problem=exact.problem)
    return tried


def _attempt(
    model: nn.Module,
    inputs: Inputs,
    structure: Structure,
    keep: Mapping[str, Tensor],
    seed: int,
    tolerance: float,
) -> Attempt:
    smaller = copy_model(model, share_parameters=True)
    stand_ins = _alive(model, seed)
    expected, counts = _masked(smaller, inputs, structure, keep, stand_ins)
    if not all(bool(torch.isfinite(value).all()) for value in expected.values()):
        stand_ins = {}
        expected, counts = _masked(smaller, inputs, structure, keep, stand_ins)
    names = {module: name for name, module in smaller.named_modules()}
    try:
        shrink(smaller, resolved := structure.resolve(keep))
        with MaskedWeights(_sliced(stand_ins, model, smaller, resolved), {}):
            found = _run(smaller, inputs, FixedCounts(counts))
    except Exception as error:  # the model's own code runs: anything may be raised
        text = str(error).strip().splitlines()
        reason = f"breaks the forward pass: {type(error).__name__}: {text[0] if text else ''}"
        return Attempt(Problem(reason, _innermost(error, names)), smaller)
    return Attempt(_difference(expected, found, tolerance), smaller)


def _is_float32(model: nn.Module) -> bool:
    return all(own.dtype == torch.float32 for own in model.parameters())


def _doubled(inputs: Inputs) -> Inputs:
    if isinstance(inputs, Tensor):
        return inputs.double() if inputs.is_floating_point() else inputs
    if isinstance(inputs, Mapping):
        return {name: own.double() if own.is_floating_point() else own for name, own in inputs.items()}
    return tuple(own.double() if own.is_floating_point() else own for own in inputs)


def _masked(
    model: nn.Module,
    inputs: Inputs,
    structure: Structure,
    keep: Mapping[str, Tensor],
    stand_ins: Mapping[int, Tensor],
) -> tuple[dict[str, Tensor], list[float]]:
    """Run the model with all slices that are to go at zero; it is left as it is.

    Returns:
        The outputs, and what statistics were taken over.
    """
    tensors = named_tensors(model)
    removed: dict[int, dict[int, Tensor]] = {}
    for name, mask in keep.items():
        for own in structure.by_name[name].slices:
            tensor = tensors[own.tensor]
            places = ((own.owner >= 0) & ~mask[own.owner.clamp(min=0)]).nonzero().flatten().to(tensor.device)
            dims = removed.setdefault(id(tensor), {})
            dims[own.dim] = torch.cat([dims[own.dim], places]) if own.dim in dims else places
    counting = FixedCounts()
    with MaskedWeights(stand_ins, removed):
        outputs = _run(model, inputs, counting)
    return outputs, counting.counts


def _alive(model: nn.Module, seed: int) -> dict[int, Tensor]:
    """Values for parameters that are zero or tiny, such as layer scales: behind them anything would pass.

    Returns:
        Values by the ``id`` of the parameter for which they stand in.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[int, Tensor] = {}
    for own in model.parameters():
        is_vector = own.numel() == max(own.shape, default=1)
        if is_vector and own.numel() and float(own.detach().abs().max()) < 0.1:
            value = torch.rand(own.shape, generator=generator) + 0.5
        elif own.numel() and not is_vector and is_all_zero(own):
            value = torch.randn(own.shape, generator=generator) * own[0].numel() ** -0.5
        else:
            continue
        found[id(own)] = value.to(own)
    return found


def _sliced(
    stand_ins: Mapping[int, Tensor], model: nn.Module, smaller: nn.Module, resolved: Resolved
) -> dict[int, Tensor]:
    """What stands in for the parameters of the smaller model."""
    given = named_tensors(model)
    kept = {id(given[name]): dims for name, dims in resolved.tensors.items()}
    return {
        id(own): slice_tensor(name, stand_ins[place], kept.get(place, {}))
        for name, own in named_tensors(smaller).items()
        if (place := id(given.get(name))) in stand_ins
    }


def _innermost(error: Exception, names: Mapping[nn.Module, str]) -> str | None:
    """The module of the user's own classes in whose method an error arose."""
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if (
            isinstance(owner, nn.Module)
            and owner in names
            and not type(owner).__module__.startswith("torch.")
        ):
            found = names[owner]
    return found


def half_of(coupled: Sequence[CoupledChannels], seed: int) -> dict[str, Tensor]:
    """Return masks that keep a random half, rounded up."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for own in coupled:
        mask = torch.zeros(own.count, dtype=torch.bool)
        mask[torch.randperm(own.count, generator=generator)[: (own.count + 1) // 2]] = True
        masks[own.name] = mask
    return masks


def _kind(model: nn.Module, coupled: CoupledChannels) -> str:
    """A name for coupled channels that play the same part in blocks of the same class."""
    parts = []
    for own in coupled.slices[:12]:
        parent, _, layer = own.layer.rpartition(".")
        parts.append(f"{type(model.get_submodule(parent)).__name__}.{layer}.{own.dim}")
    return " ".join(sorted(set(parts)))


class _Proof:
    """A search for what cannot be taken out, guided by where the forward pass breaks."""

    def __init__(self, model: nn.Module, inputs: Inputs, structure: Structure, seed: int) -> None:
        self._model, self._inputs, self._structure, self._seed = model, inputs, structure, seed
        self._kinds: dict[str, list[str]] = {}

    def run(self) -> Structure:
        while (found := self._try(self._structure.prunable)) is not None:
            if self._free(found.module):
                continue
            suspects = self._suspects(found.module)
            failed = self._search(suspects) or self._search(self._structure.prunable)
            if not failed:  # only their combination fails
                failed = {own.name: f"together with others it {found.text}" for own in suspects}
            self._structure = self._structure.protecting(failed)
        return self._structure

    def _try(self, coupled: Sequence[CoupledChannels]) -> "Problem | None":
        if not coupled:
            return None
        keep = half_of(coupled, self._seed)
        return attempt(self._model, self._inputs, self._structure, keep, seed=self._seed).problem

    def _free(self, module: str | None) -> bool:
        """Leave sizes free in all modules of the class that broke, if it writes any; once."""
        if module is None:
            return False
        kind = type(self._model.get_submodule(module))
        modules = {
            own.module
            for own in self._structure.written
            if type(self._model.get_submodule(own.module)) is kind
        }
        if modules <= self._structure.freed:
            return False
        self._structure = self._structure.freeing(modules)
        return True

    def _suspects(self, module: str | None) -> tuple[CoupledChannels, ...]:
        """What has slices in the module that broke; everything where that is not known."""
        inside = tuple(
            own
            for own in self._structure.prunable
            if any(part.tensor.startswith(f"{module}.") for part in own.slices)
        )
        return inside if module and inside else self._structure.prunable

    def _search(self, candidates: Sequence[CoupledChannels]) -> dict[str, str]:
        """Find by halving what fails by itself; of a kind that did so before, nothing more is tried."""
        failed = {}
        waiting = []
        for own in candidates:
            known = self._kinds.get(_kind(self._model, own), [])
            if len(known) >= _MOST_FAILURES:
                failed[own.name] = known[-1]
            else:
                waiting.append(own)
        found = self._try(waiting)
        if found is None:
            return failed
        if len(waiting) == 1:
            self._kinds.setdefault(_kind(self._model, waiting[0]), []).append(found.text)
            return {**failed, waiting[0].name: found.text}
        middle = len(waiting) // 2
        return {**failed, **self._search(waiting[:middle]), **self._search(waiting[middle:])}


def _run(model: nn.Module, inputs: Inputs, counts: FixedCounts) -> dict[str, Tensor]:
    with torch.no_grad(), counts, modes_kept(model):
        model.train().eval()  # drops what an earlier run has cached
        return named_outputs(run_model(model, inputs))


def _difference(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], tolerance: float
) -> Problem | None:
    for name, value in expected.items():
        if name not in found or found[name].shape != value.shape:
            return Problem(f"changes the shape of output `{name}`")
        if not value.is_floating_point() or not value.numel():
            continue
        error = float((found[name] - value).abs().max()) / max(float(value.abs().max()), 1e-30)
        if not error <= tolerance:
            text = f"changes output `{name}` where it should not (by {error:.2g} relative)"
            return Problem(text, error=error if math.isfinite(error) else math.inf)
    return None
