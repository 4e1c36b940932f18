"""Prove that channels can be taken out: on a copy, against the same network with their slices set to zero.

A network that has lost channels must compute what it computed with all slices of these channels at zero. Layers
that take statistics over channels (LayerNorm, means) divide by fewer of them afterwards; for the proof alone
they divide by as many as before, so that equality is expected there too, and index bookkeeping is tested in
every layer.
"""

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lomt.pruning.apply import shrink
from lomt.structure import CoupledChannels, Inputs, Structure, copy_model, named_outputs, named_tensors, run_model

__all__ = ["Problem", "half_of", "problem", "prove"]

_TOLERANCE = 1e-3
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
    """

    text: str
    module: str | None = None


def problem(
    model: nn.Module, inputs: Inputs, structure: Structure, keep: Mapping[str, Tensor], *, seed: int = 0
) -> Problem | None:
    """Say what is wrong with taking channels out; ``None`` if nothing is.

    Args:
        model: In any mode; left as it is.
        inputs: Example inputs.
        structure: Of the model.
        keep: Mask by name.
        seed: Of the values that stand in for parameters at zero.
    """
    masked = _eval(copy_model(model))
    _liven(masked, seed)
    smaller = copy_model(masked)
    _zero(masked, structure, keep)
    expected, counts = _run(masked, inputs, _Counting())
    del masked
    names = {module: name for name, module in smaller.named_modules()}
    try:
        shrink(smaller, structure.resolve(keep))
        found, _ = _run(smaller, inputs, _Counting(counts.counts))
    except Exception as error:  # the model's own code runs: anything may be raised
        text = str(error).strip().splitlines()
        reason = f"breaks the forward pass: {type(error).__name__}: {text[0] if text else ''}"
        return Problem(reason, _innermost(error, names))
    text_ = _difference(expected, found)
    return None if text_ is None else Problem(text_)


def _innermost(error: Exception, names: Mapping[nn.Module, str]) -> str | None:
    """The module of the user's own classes in whose method an error arose."""
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and owner in names and not type(owner).__module__.startswith("torch."):
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
        while (problem := self._try(self._structure.prunable)) is not None:
            if self._free(problem.module):
                continue
            suspects = self._suspects(problem.module)
            failed = self._search(suspects) or self._search(self._structure.prunable)
            if not failed:  # only their combination fails
                failed = {own.name: f"together with others it {problem.text}" for own in suspects}
            self._structure = self._structure.protecting(failed)
        return self._structure

    def _try(self, coupled: Sequence[CoupledChannels]) -> "Problem | None":
        if not coupled:
            return None
        return problem(self._model, self._inputs, self._structure, half_of(coupled, self._seed), seed=self._seed)

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


def _eval(model: nn.Module) -> nn.Module:
    model.train()
    return model.eval()


def _run(model: nn.Module, inputs: Inputs, mode: "_Counting") -> tuple[dict[str, Tensor], "_Counting"]:
    with torch.no_grad(), mode:
        outputs = named_outputs(run_model(model, inputs))
    return outputs, mode


def _difference(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    for name, value in expected.items():
        if name not in found or found[name].shape != value.shape:
            return f"changes the shape of output `{name}`"
        if not value.is_floating_point():
            continue
        largest = float(value.abs().max()) if value.numel() else 0.0
        error = float((found[name] - value).abs().max()) if value.numel() else 0.0
        if not error <= _TOLERANCE * max(largest, 1e-30):
            return f"changes output `{name}` where it should not (by {error / max(largest, 1e-30):.2g} relative)"
    return None


def _liven(model: nn.Module, seed: int) -> None:
    """Give parameters that are zero or tiny, such as layer scales, values: behind them anything would pass."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            is_vector = parameter.numel() == max(parameter.shape, default=1)
            largest = float(parameter.abs().max()) if parameter.numel() else 1.0
            if is_vector and largest < 0.1:
                parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
            elif largest == 0.0:
                scale = parameter[0].numel() ** -0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)


def _zero(model: nn.Module, structure: Structure, keep: Mapping[str, Tensor]) -> None:
    tensors = named_tensors(model)
    with torch.no_grad():
        for name, mask in keep.items():
            for own in structure.by_name[name].slices:
                goes = (own.owner >= 0) & ~mask[own.owner.clamp(min=0)]
                places = goes.nonzero().flatten()
                if len(places):
                    tensors[own.tensor].index_fill_(own.dim, places.to(tensors[own.tensor].device), 0)


class _Counting(TorchDispatchMode):
    """Counts what statistics are taken over, or makes them divide by given counts.

    Args:
        counts: What to divide by, in the order of the operations; without them they are noted.
    """

    def __init__(self, counts: Sequence[float] | None = None) -> None:
        super().__init__()
        self._given = iter(counts) if counts is not None else None
        self.counts: list[float] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        statistic = _STATISTICS.get(func.overloadpacket.__name__)
        size = None if statistic is None else _over(func, args, kwargs)
        if statistic is None or size is None:
            return func(*args, **kwargs)
        self.counts.append(size)
        wanted = size if self._given is None else next(self._given, size)
        if wanted == size:
            return func(*args, **kwargs)
        arguments = {
            argument.name: args[place] if place < len(args) else kwargs.get(argument.name, argument.default_value)
            for place, argument in enumerate(func._schema.arguments)
        }
        return statistic(arguments, wanted)


def _over(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float | None:
    """How many values each statistic is taken over; ``None`` where none is taken."""
    name, features = func.overloadpacket.__name__, args[0]
    if name in ("native_layer_norm", "_fused_rms_norm"):
        return float(torch.Size(args[1]).numel())
    if name == "native_group_norm":
        return args[4] / args[6] * args[5]  # type: ignore[no-any-return]
    if name == "native_batch_norm":
        return features.numel() / features.shape[1] if args[5] else None  # type: ignore[no-any-return]
    dims = args[1] if len(args) > 1 else kwargs.get("dim")
    dims = [dims] if isinstance(dims, int) else dims or range(features.ndim)
    size = 1.0
    for dim in dims:
        size *= features.shape[dim]
    return size


def _moments(features: Tensor, dims: Sequence[int], count: float) -> tuple[Tensor, Tensor]:
    mean = features.sum(dims, keepdim=True) / count
    return mean, (features.square().sum(dims, keepdim=True) / count - mean.square()).clamp(min=0)


def _mean(arguments: Mapping[str, Any], count: float) -> Tensor:
    features = arguments["self"]
    dims = arguments.get("dim") or list(range(features.ndim))
    return features.sum(dims, keepdim=bool(arguments.get("keepdim"))) / count  # type: ignore[no-any-return]


def _variance(arguments: Mapping[str, Any], count: float) -> tuple[Tensor, Tensor]:
    features, dims = arguments["self"], arguments.get("dim")
    dims = [dims] if isinstance(dims, int) else dims or list(range(features.ndim))
    mean, variance = _moments(features, dims, count)
    correction = arguments.get("correction")
    variance = variance * count / (count - (1 if correction is None else correction))
    if not arguments.get("keepdim"):
        for dim in sorted((dim % features.ndim for dim in dims), reverse=True):
            mean, variance = mean.squeeze(dim), variance.squeeze(dim)
    return variance, mean


def _deviation(arguments: Mapping[str, Any], count: float) -> Tensor:
    return _variance(arguments, count)[0].sqrt()


def _layer_norm(arguments: Mapping[str, Any], count: float) -> tuple[Tensor, Tensor, Tensor]:
    features, size = arguments["input"], len(arguments["normalized_shape"])
    dims = list(range(features.ndim - size, features.ndim))
    mean, variance = _moments(features, dims, count)
    rate = (variance + arguments["eps"]).rsqrt()
    return _affine((features - mean) * rate, arguments["weight"], arguments["bias"]), mean, rate


def _rms_norm(arguments: Mapping[str, Any], count: float) -> tuple[Tensor, Tensor]:
    features, size = arguments["input"], len(arguments["normalized_shape"])
    dims = list(range(features.ndim - size, features.ndim))
    eps = arguments["eps"] if arguments["eps"] is not None else torch.finfo(features.dtype).eps
    rate = (features.square().sum(dims, keepdim=True) / count + eps).rsqrt()
    return _affine(features * rate, arguments["weight"], None), rate


def _group_norm(arguments: Mapping[str, Any], count: float) -> tuple[Tensor, Tensor, Tensor]:
    features, groups = arguments["input"], arguments["group"]
    grouped = features.reshape(features.shape[0], groups, -1)
    mean, variance = _moments(grouped, [2], count)
    rate = (variance + arguments["eps"]).rsqrt()
    normed = ((grouped - mean) * rate).reshape(features.shape)
    ones = (1,) * (features.ndim - 2)
    weight, bias = (own if own is None else own.reshape(-1, *ones) for own in (arguments["weight"], arguments["bias"]))
    return _affine(normed, weight, bias), mean.squeeze(2), rate.squeeze(2)


def _batch_norm(arguments: Mapping[str, Any], count: float) -> tuple[Tensor, Tensor, Tensor]:
    features = arguments["input"]
    dims = [dim for dim in range(features.ndim) if dim != 1]
    mean, variance = _moments(features, dims, count)
    rate = (variance + arguments["eps"]).rsqrt()
    ones = (1,) * (features.ndim - 2)
    weight, bias = (own if own is None else own.reshape(-1, *ones) for own in (arguments["weight"], arguments["bias"]))
    return _affine((features - mean) * rate, weight, bias), mean.flatten(), rate.flatten()


def _affine(features: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    features = features if weight is None else features * weight
    return features if bias is None else features + bias


_STATISTICS: dict[str, Callable[[Mapping[str, Any], float], Any]] = {
    "mean": _mean,
    "var": lambda arguments, count: _variance(arguments, count)[0],
    "var_mean": _variance,
    "std": _deviation,
    "native_layer_norm": _layer_norm,
    "_fused_rms_norm": _rms_norm,
    "native_group_norm": _group_norm,
    "native_batch_norm": _batch_norm,
}
