"""Carry out a plan: slice tensors, correct what modules say of themselves, put replacements in place."""

from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from lomt.errors import ArtifactError
from lomt.module_modes import modes_kept
from lomt.pruning.plan import PruningPlan, Replacement
from lomt.pruning.replacements import build_replacement
from lomt.structure import FreeSize, Resolved, copy_model, free_sizes, named_tensors, source_checksum

__all__ = [
    "FREE_SIZES",
    "apply_plan",
    "freed_sizes",
    "shrink",
    "shrink_in_place",
    "slice_tensor",
    "slice_tensors",
    "unshare",
]

FREE_SIZES = "free_sizes"
"""Kind of the replacement that changes a method instead of the module."""


def apply_plan(model: nn.Module, plan: PruningPlan) -> nn.Module:
    """Return a smaller model; the given one is left as it is.

    Raises:
        ArtifactError: The plan was made for another model.
    """
    smaller = copy_model(model, share_parameters=True)
    shrink_in_place(smaller, plan)
    unshare(smaller, model)
    return smaller


def unshare(smaller: nn.Module, model: nn.Module) -> None:
    """Give a model copies of the parameters that it has in common with another."""
    given = {id(own) for own in model.parameters()}
    shared = (own for own in smaller.parameters() if id(own) in given)
    put_tensors(smaller, {id(own): like(own, own.detach().clone()) for own in shared})


def shrink_in_place(model: nn.Module, plan: PruningPlan) -> None:
    """Make the model smaller.

    Args:
        model: A model as it was when the plan was made, values aside; parameters become other objects.
        plan: What goes.

    Raises:
        ArtifactError: The plan was made for another model.
    """
    tensors = {
        name: {dim: torch.tensor(positions, dtype=torch.int64) for dim, positions in dims.items()}
        for name, dims in plan.tensors.items()
    }
    attributes = tuple((own.module, own.attribute, own.index, own.value) for own in plan.attributes)
    shrink(model, Resolved(tensors, attributes))
    for own in plan.replaced:
        if own.kind == FREE_SIZES:
            _free(model, own)
        else:
            _replace(model, own.module, build_replacement(own.kind, own.options))


def shrink(model: nn.Module, resolved: Resolved) -> None:
    """Slice tensors, and bring what modules say of themselves in line.

    Raises:
        ArtifactError: There is no such tensor or module, or a tensor is too small.
    """
    slice_tensors(model, resolved.tensors)
    for module, attribute, index, value in resolved.attributes:
        _set_size(model, module, attribute, index, value)
    for own in freed_sizes(model, resolved):
        _free(model, own)
    for part in model.modules():
        _refresh(part)
    with modes_kept(model):  # caches are of the old sizes
        pass


def freed_sizes(model: nn.Module, resolved: Resolved) -> tuple[Replacement, ...]:
    """Return the methods that are to leave sizes free, in the form of a plan."""
    return tuple(
        Replacement(
            module,
            FREE_SIZES,
            {
                "function": function,
                "calls": [[call.line, call.dim, call.count, call.size] for call in calls],
                "source": source_checksum(_module(model, module), function),
            },
        )
        for module, function, calls in resolved.freed
    )


def _free(model: nn.Module, own: Replacement) -> None:
    try:
        calls = [_free_size(*call) for call in own.options["calls"]]
        function, checksum = str(own.options["function"]), str(own.options["source"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"Expected a plan that says which sizes of `{own.module}` to leave free, but got {dict(own.options)}."
        ) from error
    free_sizes(_module(model, own.module), function, calls, checksum)


def _free_size(line: Any, dim: Any, count: Any, size: Any = None) -> FreeSize:
    return FreeSize(int(line), int(dim), int(count), None if size is None else int(size))


def slice_tensors(model: nn.Module, kept: Mapping[str, Mapping[int, Tensor]]) -> None:
    """Keep positions of tensors; a tensor that several modules share stays shared.

    Args:
        model: Changed in place.
        kept: (kept,) positions by tensor name and dimension.

    Raises:
        ArtifactError: There is no such tensor, or it is too small.
    """
    tensors = named_tensors(model)
    replaced: dict[int, Tensor] = {}
    for name, dims in kept.items():
        if name not in tensors:
            raise ArtifactError(
                f"Expected the model to have the tensor `{name}`, but it does not: the plan was made for another."
            )
        old = tensors[name]
        replaced[id(old)] = slice_tensor(name, old, dims)
    put_tensors(model, replaced)


def put_tensors(model: nn.Module, replaced: Mapping[int, Tensor]) -> None:
    """Put other tensors in the places of a model's tensors, in all places where one occurs.

    Args:
        model: Changed in place.
        replaced: What takes the place of a tensor, by the ``id`` of that tensor.
    """
    for module in model.modules():
        for entries in (module._parameters, module._buffers, vars(module)):
            for key, value in entries.items():
                if isinstance(value, Tensor) and id(value) in replaced:
                    cast(dict[str, Any], entries)[key] = replaced[id(value)]


def like(old: Tensor, values: Tensor) -> Tensor:
    """Return values as a parameter if the old tensor is one, to be trained if that one is."""
    if isinstance(old, nn.Parameter):
        return nn.Parameter(values, requires_grad=old.requires_grad)
    return values


def _set_size(model: nn.Module, path: str, attribute: str, index: int | None, value: int) -> None:
    """Set a number that a module keeps about itself."""
    module = _module(model, path)
    old = getattr(module, attribute, None)
    entries = list(old) if isinstance(old, list | tuple) else []
    is_there = isinstance(old, int) if index is None else 0 <= index < len(entries)
    if not is_there:
        name = attribute if index is None else f"{attribute}[{index}]"
        raise ArtifactError(
            f"Expected module `{path}` to have the number `{name}`, but it does not: the plan was made for another "
            "model."
        )
    if index is None:
        setattr(module, attribute, value)
    else:
        entries[index] = value
        setattr(module, attribute, tuple(entries) if isinstance(old, tuple) else entries)


def slice_tensor(name: str, old: Tensor, dims: Mapping[int, Tensor]) -> Tensor:
    """Keep positions of a tensor; a parameter stays one.

    Args:
        name: For messages.
        old: Left as it is.
        dims: (kept,) positions by dimension.

    Raises:
        ArtifactError: It is too small.
    """
    new = old.detach()
    for dim, positions in sorted(dims.items()):  # the first dimension, whose slices are contiguous, first
        if dim >= new.ndim or (len(positions) and int(positions.max()) >= new.shape[dim]):
            raise ArtifactError(
                f"Expected `{name}` to have position {int(positions.max())} in dimension {dim}, but its shape is "
                f"{tuple(old.shape)}: the plan was made for another model."
            )
        new = new.index_select(dim, positions.to(new.device))
    if isinstance(old, nn.Parameter):
        return nn.Parameter(new.contiguous(), requires_grad=old.requires_grad)
    return new.contiguous()


def _module(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise ArtifactError(
            f"Expected the model to have the module `{path}`, but it does not: the plan was made for another."
        ) from error


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent = _module(model, path.rpartition(".")[0])
    _module(model, path)
    setattr(parent, path.rpartition(".")[2], module)


class _Sizes(Protocol):
    def __call__(self, module: Any) -> None: ...


def _refresh_convolution(module: Any) -> None:
    out, own = module.weight.shape[:2]
    if module.transposed:
        out, own = own, out
        module.in_channels, module.out_channels = own, out * module.groups
    else:
        module.in_channels, module.out_channels = own * module.groups, out


def _refresh_linear(module: Any) -> None:
    module.out_features, module.in_features = module.weight.shape


def _refresh_batch_norm(module: Any) -> None:
    known = module.weight if module.weight is not None else module.running_mean
    if known is not None:
        module.num_features = known.shape[0]


def _refresh_embedding(module: Any) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


def _refresh_recurrent(module: Any) -> None:
    module.input_size = module.weight_ih_l0.shape[1]
    module.hidden_size = module.weight_hh_l0.shape[1]
    module._flat_weights = [getattr(module, name, None) for name in module._flat_weights_names]


_REFRESHERS: dict[type[nn.Module], _Sizes] = {
    nn.modules.conv._ConvNd: _refresh_convolution,
    nn.Linear: _refresh_linear,
    nn.modules.batchnorm._NormBase: _refresh_batch_norm,
    nn.Embedding: _refresh_embedding,
    nn.RNNBase: _refresh_recurrent,
}


def _refresh(module: nn.Module) -> None:
    """Bring the sizes that torch's own layers print in line with their weights."""
    for kind, refresh in _REFRESHERS.items():
        if isinstance(module, kind):
            refresh(module)
