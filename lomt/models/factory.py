"""Where a model comes from: a text that names the callable which builds it."""

import hashlib
import importlib
import importlib.util
import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import timm
from torch import nn

from lomt.errors import LomtError, UnknownNameError
from lomt.models.multitask import MULTITASK, ModelSpec
from lomt.models.task_network import TaskNetwork

__all__ = ["FORMS", "Factory", "FactoryError", "factory_candidates", "load_factory"]

FORMS = "`package.module:callable`, `path/file.py:callable` or `timm:NAME`"
"""What a factory's text may look like."""

logger = logging.getLogger(__name__)


class FactoryError(LomtError, ValueError):
    """A factory that cannot be found or does not build a model."""


@dataclass(frozen=True)
class Factory:
    """How a model is built, apart from its weights.

    Building is the only way in which a path runs code.

    Example:
        >>> model = Factory("timm:resnet18", {"num_classes": 5}).build()
        >>> model.fc.out_features
        5

    Args:
        spec: `package.module:callable`, `path/file.py:callable` or `timm:NAME`.
        kwargs: Keyword arguments of the callable; where the factory is to be saved, of types that JSON knows.
    """

    spec: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """Find the callable and call it.

        Raises:
            FactoryError: There is no such module or file, it raises, or it returns no model.
            UnknownNameError: The module has no such callable, the callable no such argument.
        """
        with _beside(self.spec):
            return call_factory(load_factory(self.spec), self.spec, self.kwargs)


def load_factory(spec: str) -> Callable[..., nn.Module]:
    """Find the callable that a text names; modules and files are executed, the callable is not called.

    Args:
        spec: `package.module:callable`, `path/file.py:callable` or `timm:NAME`.

    Raises:
        FactoryError: The text is of no known form, or its module or file is missing or raises.
        UnknownNameError: The module has no such callable, or timm no such model.
    """
    if spec == MULTITASK:
        return _multitask
    place, colon, name = spec.rpartition(":")
    if not (colon and place and name):
        hint = f" Did you mean `timm:{spec}`?" if timm.is_model(spec) else ""
        raise FactoryError(f"Expected the factory to be {FORMS}, but got `{spec}`.{hint}")
    if place == "timm":
        return _timm_model(name)
    module = _load_file(spec, Path(place)) if place.endswith(".py") else _load_module(spec, place)
    return _find_callable(spec, module, name)


def call_factory(factory: Callable[..., Any], spec: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """Call a factory.

    Args:
        factory: What builds the model.
        spec: Its name in messages.
        kwargs: Its keyword arguments.

    Raises:
        FactoryError: An argument is missing, the factory raises, or it returns no model.
        UnknownNameError: An argument is unknown.
    """
    _check_arguments(factory, spec, kwargs)
    try:
        model = factory(**kwargs)
    except (Exception, SystemExit) as error:
        raise _raised(spec, "return a model", error) from error
    if not isinstance(model, nn.Module):
        raise FactoryError(
            f"Expected factory `{spec}` to return a torch.nn.Module, but got {type(model).__name__}."
        )
    return model


def factory_candidates(model: nn.Module) -> list[Factory]:
    """List the factories that may have built a model, most probable first.

    Known are lomt's own networks by their ``spec``, and timm's models by their configuration. timm does not keep the
    arguments of a model: each candidate has to be compared with the model.

    Returns:
        None for other models.
    """
    if isinstance(model, TaskNetwork):
        return [Factory(model.factory, model.spec.to_dict())]
    architecture = _timm_name(model)
    if architecture is None:
        return []
    return [Factory(f"timm:{architecture}", kwargs) for kwargs in _timm_arguments(model)]


def _multitask(**spec: Any) -> nn.Module:
    return ModelSpec.from_dict(spec).build()


def _timm_model(name: str) -> Callable[..., nn.Module]:
    if not timm.is_model(name):
        raise UnknownNameError("timm model", name, timm.list_models())

    def create(**kwargs: Any) -> nn.Module:
        model: nn.Module = timm.create_model(name, **kwargs)
        return model

    return create


def _timm_name(model: nn.Module) -> str | None:
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if not isinstance(config, Mapping):
        return None
    name, tag = config.get("architecture"), config.get("tag")
    if not isinstance(name, str) or not timm.is_model(name):
        return None
    return f"{name}.{tag}" if tag and timm.is_model(f"{name}.{tag}") else name


def _timm_arguments(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Guess arguments from what the model keeps of them: none, channels and classes, sizes, no pooling."""
    yield {}
    indices = getattr(getattr(model, "feature_info", None), "out_indices", None)
    plain: dict[str, Any] = {} if indices is None else {"features_only": True, "out_indices": list(indices)}
    inner = model if indices is None else getattr(model, "model", model)
    kept = ("num_classes", "in_chans") if indices is None else ("in_chans",)
    numbers = {key: getattr(inner, key, None) for key in kept}
    numbers = {key: value for key, value in numbers.items() if isinstance(value, int)}
    size = getattr(getattr(inner, "patch_embed", None), "img_size", None)
    for sizes in [{}, {"img_size": list(size)}] if isinstance(size, tuple) else [{}]:
        yield {**plain, **numbers, **sizes}
        yield {**plain, **sizes}
        if indices is None:
            yield {**numbers, **sizes, "global_pool": ""}


@contextmanager
def _beside(spec: str) -> Iterator[None]:
    """Let a factory in a file import what lies beside the file, as `python file.py` does."""
    place = spec.rpartition(":")[0]
    kept = sys.path[:]
    if place.endswith(".py"):
        sys.path.insert(0, str(Path(place).resolve().parent))
    try:
        yield
    finally:
        sys.path[:] = kept


def _load_file(spec: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise FactoryError(f"Expected a Python file at {path} for factory `{spec}`, but there is none.")
    path = path.resolve()
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    description = importlib.util.spec_from_file_location(name, path)
    assert description is not None and description.loader is not None  # the name ends with .py
    module = importlib.util.module_from_spec(description)
    sys.modules[name] = module  # dataclasses look their own module up
    try:
        with _beside(spec):
            description.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _raised(spec, "have a file that can be imported", error) from error
    return module


def _load_module(spec: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise FactoryError(
                f"Expected a module `{name}` for factory `{spec}`, but there is no module `{error.name}`. "
                "It must be installed, or lie in the directory lomt is called from."
            ) from error
        raise _raised(spec, "have a module that can be imported", error) from error
    except (Exception, SystemExit) as error:
        raise _raised(spec, "have a module that can be imported", error) from error


def _find_callable(spec: str, module: ModuleType, name: str) -> Callable[..., nn.Module]:
    found = getattr(module, name, None)
    if isinstance(found, nn.Module):
        raise FactoryError(
            f"Expected factory `{spec}` to be a function or class that builds the model, but got a model. "
            "Write a function that returns a new one."
        )
    if not callable(found):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UnknownNameError("callable", name, public)
    factory: Callable[..., nn.Module] = found
    return factory


def _check_arguments(factory: Callable[..., Any], spec: str, kwargs: Mapping[str, Any]) -> None:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # a builtin that does not say what it takes
        return
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if missing := [p.name for p in named if p.default is p.empty and p.name not in kwargs]:
        raise FactoryError(
            f"Expected factory `{spec}` to need no further arguments, but it needs "
            f"{', '.join(f'`{name}`' for name in missing)}. Give each as `--option {missing[0]}=VALUE`, "
            "in Python with `kwargs`."
        )
    if all(p.kind is not p.VAR_KEYWORD for p in parameters):
        known = [p.name for p in named if p.kind is not p.POSITIONAL_ONLY]
        for name in kwargs:
            if name not in known:
                raise UnknownNameError("option", name, known)


def _raised(spec: str, expectation: str, error: BaseException) -> FactoryError:
    logger.info("Factory `%s` raised:", spec, exc_info=error)
    lines = str(error).strip().splitlines()
    what = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return FactoryError(
        f"Expected factory `{spec}` to {expectation}, but it raised {what.rstrip('.')}. "
        "The log has the traceback (`-v`)."
    )
