"""Find layers whose work changes nothing: dead branches, whole dead stages, layers that no output needs.

A layer whose weights are all zero puts out its bias whatever it reads. Everything that only feeds it need not be
computed, and what follows from it alone (a norm in eval mode, an activation, a squeeze-excite) is a constant. A
zero-padded convolution bends a constant at the border; it and what follows stay, unless the constant is zero.
What is proposed is tried on a copy, at several sizes, before it is believed.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from lomt.pruning.constant_parts import constant_groups, unchanged_groups, unused_groups
from lomt.pruning.flow_recorder import record_flow
from lomt.pruning.plan import Replacement
from lomt.pruning.replacements import build_replacement
from lomt.structure import Inputs, Structure, copy_model, named_outputs, names_layer, run_model

__all__ = ["find_dead", "saved"]

_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}
_COARSE = 2e-2


def find_dead(
    model: nn.Module, inputs: Inputs, structure: Structure, *, protect: Sequence[str] = ()
) -> tuple[Replacement, ...]:
    """Find modules that can be exchanged for cheaper ones without any change of the outputs.

    A plan carries out its replacements last. Constants have as many channels as the model given here: where a
    plan also removes channels, give the model that has lost them already.

    Args:
        model: In any mode; left as it is. What is found holds for eval mode.
        inputs: Example inputs.
        structure: Of the model, or of the one that it was cut from.
        protect: Layers, by dotted path, that stay: a name, a name of something that contains them, or a
            pattern with ``*``. What is found together with one of them stays too.

    Returns:
        Replacements, none inside another: ``"constant"`` for what ends a dead branch, ``"skip"`` for what only leads
        to it, ``"identity"`` for blocks that add nothing and for layers that are never called. Each leaves the
        outputs as they were on the example inputs and, where the model takes them, on other values, two at a time
        and at another image size: to 1e-9 relative in float64, 1e-5 in float32.
    """
    trial = _Trial(model, inputs, protect)
    flow = record_flow(trial.model, inputs)
    found = trial.accept(unused_groups(trial.model, flow, structure.unused_layers))
    unchanged = trial.accept(unchanged_groups(flow))
    if unchanged:
        flow = record_flow(trial.model, inputs)
    groups = constant_groups(trial.model, flow)
    constant = trial.accept(groups)
    is_narrow = any(own.options.get("is_writable") for group in groups for own in group)
    if is_narrow and len(constant) < sum(map(len, groups)):
        flow = record_flow(trial.model, inputs)
        constant += trial.accept(constant_groups(trial.model, flow, narrow=False))
    return (*found, *unchanged, *constant)


def saved(
    model: nn.Module, structure: Structure, replacements: Iterable[Replacement]
) -> tuple[int, set[str]]:
    """Count what goes with replaced modules.

    Args:
        model: The one that :func:`find_dead` was given.
        structure: Of the model, or of the one that it was cut from.
        replacements: What goes.

    Returns:
        The number of the model's parameters that go, and the names of the layers in ``structure.layer_macs()`` whose
        multiply-accumulates go. A parameter that a module which stays has too does not go.
    """
    paths = [own.module for own in replacements]
    gone = {name: own for name, own in model.named_parameters(remove_duplicate=False) if _is_in(name, paths)}
    kept = {id(own) for name, own in model.named_parameters(remove_duplicate=False) if name not in gone}
    sizes = {id(own): own.numel() for own in gone.values() if id(own) not in kept}
    return sum(sizes.values()), {layer for layer in structure.layer_macs() if _is_in(layer, paths)}


def _is_in(name: str, paths: Iterable[str]) -> bool:
    return any(name == path or name.startswith(f"{path}.") for path in paths)


class _Trial:
    """A copy of a model in which replacements are tried and kept if the outputs stay."""

    def __init__(self, model: nn.Module, inputs: Inputs, protect: Sequence[str]) -> None:
        self.model = copy_model(model)
        self.model.train()
        self.model.eval()  # both: models that cache tensors in eval mode start afresh
        self._inputs, self._protect = inputs, protect
        self._cases: list[tuple[Inputs, dict[str, Tensor]]] = []

    def accept(self, groups: Sequence[Sequence[Replacement]]) -> list[Replacement]:
        """Carry out those groups that leave the outputs unchanged."""
        allowed = [group for group in groups if not any(self._is_protected(own.module) for own in group)]
        if allowed and not self._cases:
            self._cases = _cases(self.model, self._inputs)
        return self._search(allowed)

    def _is_protected(self, path: str) -> bool:
        inside = [f"{path}.{name}".rstrip(".") for name, _ in self.model.get_submodule(path).named_modules()]
        return any(names_layer(name, layer) for name in self._protect for layer in inside)

    def _search(self, groups: Sequence[Sequence[Replacement]]) -> list[Replacement]:
        """All at once if possible, else by halving."""
        replacements = [own for group in groups for own in group]
        if not replacements:
            return []
        before = self._replace(replacements)
        if self._holds():
            return replacements
        for path, module in reversed(before):
            _put(self.model, path, module)
        middle = len(groups) // 2
        return self._search(groups[:middle]) + self._search(groups[middle:]) if middle else []

    def _replace(self, replacements: Iterable[Replacement]) -> list[tuple[str, nn.Module]]:
        before = [(own.module, self.model.get_submodule(own.module)) for own in replacements]
        for own in replacements:
            _put(self.model, own.module, build_replacement(own.kind, own.options).eval())
        return before

    def _holds(self) -> bool:
        try:
            return all(_agree(expected, _run(self.model, case)) for case, expected in self._cases)
        except Exception:  # the model's own code runs among replaced modules: anything may be raised
            return False


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _cases(model: nn.Module, inputs: Inputs) -> list[tuple[Inputs, dict[str, Tensor]]]:
    """Inputs and what comes out: the example, others and more of them, larger images of odd or even size."""
    found = [(inputs, _run(model, inputs))]
    for tries in (((2, 0), (1, 0)), ((1, 33), (1, 32))):
        for count, larger in tries:
            # Which sizes a model takes is its own affair; what it raises can be anything.
            with suppress(Exception):
                case = _like(inputs, count, larger)
                found.append((case, _run(model, case)))
                break
    return found


def _run(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    with torch.no_grad():
        return {name: own.clone() for name, own in named_outputs(run_model(model, _copied(inputs))).items()}


def _agree(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> bool:
    return expected.keys() == found.keys() and all(
        _is_close(own, found[name]) for name, own in expected.items()
    )


def _is_close(expected: Tensor, found: Tensor) -> bool:
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return False
    if not expected.is_floating_point() or not expected.numel():
        return torch.equal(expected, found)
    error = float((found - expected).abs().max())
    return error <= _TOLERANCES.get(expected.dtype, _COARSE) * float(expected.abs().max())


def _copied(inputs: Inputs) -> Any:
    return _each(inputs, lambda own: own.clone())


def _like(inputs: Inputs, count: int, larger: int) -> Any:
    """Other values, so many times as many, and images larger by so many pixels and twice as many."""
    generator = torch.Generator().manual_seed(0)

    def other(own: Tensor) -> Tensor:
        shape = list(own.shape)
        if count > 1 and shape:
            shape[0] *= count
        if larger and len(shape) == 4:
            shape[2:] = shape[2] + larger, shape[3] + 2 * larger
        if not own.is_floating_point():
            return own if shape == list(own.shape) else torch.cat([own] * count)
        values = torch.randn(shape, generator=generator, dtype=torch.float64).to(own)
        scale = own.std() if own.numel() > 1 else own.abs().max()
        return values * scale + own.mean()

    return _each(inputs, other)


def _each(inputs: Inputs, change: Any) -> Any:
    if isinstance(inputs, Tensor):
        return change(inputs)
    if isinstance(inputs, Mapping):
        return {name: change(own) for name, own in inputs.items()}
    return tuple(change(own) for own in inputs)
