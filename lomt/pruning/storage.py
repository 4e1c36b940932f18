"""Pruned models on disk: where they come from, what was done to them, and their weights; no pickle."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lomt.atomic_file import write_atomically, write_text_atomically
from lomt.checksum import sha256_of
from lomt.errors import ArtifactError, LomtError
from lomt.models.backbone import mismatch
from lomt.models.factory import Factory, FactoryError
from lomt.pruning.origin import Origin, origin_of, set_origin
from lomt.pruning.plan import PruningPlan
from lomt.pruning.rebuild import check_factory, find_factory, rebuild
from lomt.pruning.structure_file import NAME, StructureFile, read_structure, structure_text

__all__ = ["Pruned", "load", "save"]

_WEIGHTS = "model.safetensors"
_OF_WEIGHTS = ("pretrained", "checkpoint_path")
"""Arguments of timm's factories that only choose weights, which are stored beside."""


@runtime_checkable
class Pruned(Protocol):
    """A pruned model with its plan, as :func:`lomt.prune` returns it."""

    @property
    def model(self) -> nn.Module:
        """The smaller model, trained further or not."""

    @property
    def plan(self) -> PruningPlan:
        """What made it smaller."""


def save(
    result: Pruned | nn.Module,
    directory: str | Path,
    *,
    factory: str | Factory | Callable[..., nn.Module] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``structure.json`` and ``model.safetensors``, from which :func:`load` builds the model again.

    The factory is remembered by models that :func:`load` or the command line built, and found by itself for
    multitask models of ours and for timm's models. It is run here, to make sure that it leads to this model.
    A factory in a file is stored relative to ``directory``, so that both can be moved together.

    Args:
        result: What :func:`lomt.prune` returned, or a model that :func:`load` returned.
        directory: Where to; made if it is not there. Each file is complete or as it was before.
        factory: What builds the model before any pruning: `package.module:callable`, `path/file.py:callable`,
            `timm:NAME`, or the function or class itself where it can be imported.
        kwargs: Its keyword arguments, of types that JSON knows.

    Returns:
        The directory.

    Raises:
        FactoryError: The factory is not known, or does not lead to this model.
        ValueError: The model's state holds something other than tensors.
    """
    directory = Path(directory)
    model, plans = _plans(result)
    source = _factory(model, plans, factory, kwargs)
    entries, tied = _entries(model)
    is_new = not (directory / NAME).exists()
    try:
        checksum = write_atomically(directory / _WEIGHTS, lambda path: _save_weights(entries, path))
        weights = {"file": _WEIGHTS, "sha256": checksum}
        text = structure_text(_relative(source, directory), plans, tied, weights)
        write_text_atomically(directory / NAME, text)
    except BaseException:
        if is_new:
            (directory / _WEIGHTS).unlink(missing_ok=True)
        raise
    return directory


def load(
    directory: str | Path, *, factory: str | Factory | Callable[..., nn.Module] | None = None
) -> nn.Module:
    """Build a saved model again: factory, then the plans in order, then the weights.

    Everything in the files is checked before the factory is run, and only the factory runs code. With
    ``factory`` the one that the file names is not looked at.

    Args:
        directory: What :func:`save` wrote, or :func:`lomt.models.save_model`.
        factory: Builds the model before any pruning, instead of the stored factory; a callable is called
            without arguments.

    Returns:
        The model on the CPU, in eval mode. The global random state is left as it was.

    Raises:
        ArtifactError: A file is missing, damaged, or does not belong to the other, or the factory builds
            another model.
    """
    directory = Path(directory)
    if factory is None and _is_unpruned(directory):
        from lomt.models.storage import load_model

        return load_model(directory)
    structure = read_structure(directory / NAME)
    entries = _read_weights(directory / _WEIGHTS, structure)
    stored = _absolute(structure.factory, directory)
    given = Factory(factory) if isinstance(factory, str) else factory
    try:
        model = rebuild(given or stored, structure.plans)
    except LomtError as error:
        raise ArtifactError(
            f"Expected the factory of {directory / NAME} to build the model, but got: {error} "
            "Where it has moved, pass `factory` to `lomt.load`."
        ) from error
    _fill(model, entries, directory, structure)
    set_origin(model, Origin(given if isinstance(given, Factory) else stored, structure.plans))
    return model.eval()


def _plans(result: Pruned | nn.Module) -> tuple[nn.Module, tuple[PruningPlan, ...]]:
    if isinstance(result, nn.Module):
        return result, origin_of(result).plans
    plans = origin_of(result.model).plans
    earlier = plans[:-1] if plans and plans[-1].changes == result.plan.changes else plans
    return result.model, (*earlier, result.plan)


def _factory(
    model: nn.Module,
    plans: tuple[PruningPlan, ...],
    given: str | Factory | Callable[..., nn.Module] | None,
    kwargs: Mapping[str, Any] | None,
) -> Factory:
    if given is None and kwargs is not None:
        raise ValueError("Expected `kwargs` together with `factory`, but got no `factory`.")
    known = origin_of(model).factory if given is None else _named(given, kwargs)
    if known is None:
        return find_factory(model, plans)
    known = _storable(known)
    check_factory(model, known, plans)
    return known


def _named(given: str | Factory | Callable[..., nn.Module], kwargs: Mapping[str, Any] | None) -> Factory:
    if isinstance(given, Factory):
        return given if kwargs is None else dataclasses.replace(given, kwargs=kwargs)
    if isinstance(given, str):
        return Factory(given, kwargs or {})
    module, name = getattr(given, "__module__", None), getattr(given, "__qualname__", None)
    if module in (None, "__main__") or name is None or not name.isidentifier():
        raise FactoryError(
            f"Expected `factory` to be a function or class at the top of an importable module, but got {given!r}. "
            'Pass it as a text, for example "path/file.py:callable".'
        )
    return Factory(f"{module}:{name}", kwargs or {})


def _storable(factory: Factory) -> Factory:
    """Return the factory as it will be read: arguments through JSON, and none that choose weights."""
    kwargs = dict(factory.kwargs)
    if factory.spec.startswith("timm:"):
        kwargs = {key: value for key, value in kwargs.items() if key not in _OF_WEIGHTS}
    try:
        return Factory(factory.spec, json.loads(json.dumps(kwargs)))
    except TypeError as error:
        raise FactoryError(
            f"Expected `kwargs` of factory `{factory.spec}` to be of types that JSON knows, but got: {error}. "
            "Write a function that builds the model from plain values."
        ) from error


def _relative(factory: Factory, directory: Path) -> Factory:
    place, _, name = factory.spec.rpartition(":")
    if not place.endswith(".py"):
        return factory
    try:
        place = Path(os.path.relpath(Path(place).resolve(), directory.resolve())).as_posix()
    except ValueError:  # on another drive
        place = Path(place).resolve().as_posix()
    return dataclasses.replace(factory, spec=f"{place}:{name}")


def _absolute(factory: Factory, directory: Path) -> Factory:
    place, _, name = factory.spec.rpartition(":")
    if not place.endswith(".py"):
        return factory
    return dataclasses.replace(factory, spec=f"{os.path.normpath(directory.resolve() / place)}:{name}")


def _entries(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return each tensor once, on the CPU and in memory of its own, and the names of those that are tied."""
    entries: dict[str, Tensor] = {}
    tied = _tied(model)
    storages: set[int] = set()
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"Expected the model's state to be tensors, but got {type(value).__name__} under `{name}`."
            )
        if name not in tied:
            tensor = value.detach().cpu().contiguous()
            storage = tensor.untyped_storage()
            is_part = storage.nbytes() != tensor.nbytes or storage.data_ptr() in storages
            storages.add(storage.data_ptr())
            entries[name] = tensor.clone() if is_part else tensor
    return entries, tied


def _tied(model: nn.Module) -> dict[str, str]:
    """Return the names of tensors that are the same as an earlier one, with the earlier one's name."""
    first: dict[Any, str] = {}
    tied = {}
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor) and value.numel():
            key = (value.untyped_storage().data_ptr(), value.storage_offset(), value.shape, value.stride())
            if (earlier := first.setdefault((*key, value.dtype, value.device), name)) != name:
                tied[name] = earlier
    return tied


def _save_weights(entries: dict[str, Tensor], path: Path) -> str:
    save_file(entries, path, metadata={"format": "pt"})
    return sha256_of(path)


def _is_unpruned(directory: Path) -> bool:
    try:
        content = json.loads((directory / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "model" in content and "kind" not in content


def _read_weights(path: Path, structure: StructureFile) -> dict[str, Tensor]:
    if not path.is_file():
        raise ArtifactError(f"Expected the weights at {path}, but there is no such file.")
    if (found := sha256_of(path)) != structure.weights_sha256:
        raise ArtifactError(
            f"Expected {path} to have the SHA-256 {structure.weights_sha256[:12]}... of {NAME}, "
            f"but got {found[:12]}...: the file was changed, or a save was interrupted. Save the model again."
        )
    try:
        entries = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"Expected {path} to be a safetensors file, but got {error}.") from error
    for name, earlier in structure.tied.items():
        if earlier not in entries:
            raise ArtifactError(f"Expected {path} to hold `{earlier}`, which `{name}` is tied to.")
        entries[name] = entries[earlier]
    return entries


def _fill(model: nn.Module, entries: dict[str, Tensor], directory: Path, structure: StructureFile) -> None:
    state = {
        key: value for key, value in model.state_dict(keep_vars=True).items() if isinstance(value, Tensor)
    }
    problem = mismatch(entries, state)
    for name, earlier in _tied(model).items():
        if not problem and not entries[name].equal(entries[earlier]):
            problem = f"one tensor for `{name}` and `{earlier}`, which have different values in the file"
    if problem:
        versions = ", ".join(f"{name} {version}" for name, version in structure.versions.items())
        raise ArtifactError(
            f"Expected {directory / _WEIGHTS} to fit the model that the factory builds, but got {problem}. "
            f"It was saved with {versions}."
        )
    for name, tensor in state.items():
        tensor.data = tensor.data.to(entries[name].dtype)
    model.load_state_dict(entries)
