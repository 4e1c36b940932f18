"""Backbones by name: any timm model without its classifier, with local, downloaded or no weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from lomt.errors import ArtifactError, UnknownNameError

__all__ = ["BackboneSpec", "create_backbone", "mismatch"]


@dataclass(frozen=True)
class BackboneSpec:
    """Which timm model is meant, and how it is built.

    Example:
        The backbone of the LOMT paper, with 55 convolutions and 23,578,304 convolution weights:

        >>> spec = BackboneSpec("resnet50d", output_stride=8, options={"stem_width": 64})

    Args:
        name: Name of a timm model, with or without the tag of its weights (``"resnet50.a1_in1k"``).
        output_stride: Input height over feature height of the deepest layer (8, 16 or 32); deeper stages
            are dilated instead of strided. ``None`` leaves the model's own.
        options: Further keyword arguments of ``timm.create_model``; lists become tuples.
    """

    name: str
    output_stride: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", {key: _frozen(value) for key, value in self.options.items()})


def create_backbone(spec: BackboneSpec, weights: str | Path | None = None) -> nn.Module:
    """Build the timm model without classifier and, where it can go without, without pooling.

    Args:
        spec: Name and settings.
        weights: ``None`` for random weights, ``"pretrained"`` for those that timm downloads, or the path of
            a safetensors file with timm's key names. Entries of the classifier in the file are not used.

    Returns:
        A timm model in train mode; its layers are listed by :func:`lomt.models.list_layers` and it is cut by
        :func:`lomt.models.truncate`.

    Raises:
        UnknownNameError: timm has no model of this name.
        ValueError: The model does not take ``output_stride`` or one of ``options``.
        ArtifactError: The weights cannot be downloaded or read, or belong to another model.
    """
    if not timm.is_model(spec.name):
        raise UnknownNameError("backbone", spec.name, timm.list_models())
    if weights == "pretrained":
        return _download(spec)
    model = _create(spec, pretrained=False)
    if weights is not None:
        _load_weights(model, spec.name, Path(weights))
    return model


def _create(spec: BackboneSpec, pretrained: bool) -> nn.Module:
    options = dict(spec.options)
    if spec.output_stride is not None:
        options["output_stride"] = spec.output_stride
    try:
        return timm.create_model(spec.name, pretrained=pretrained, num_classes=0, global_pool="", **options)
    except _REFUSALS:
        # Some models cannot go without pooling; it lies behind every layer and goes when they are cut.
        pass
    try:
        return timm.create_model(spec.name, pretrained=pretrained, num_classes=0, **options)
    except _REFUSALS as error:
        raise ValueError(
            f"Expected `options` and `output_stride` of backbone `{spec.name}` to be ones that timm's model "
            f"takes, but got {options}: {error}"
        ) from error


_REFUSALS = (TypeError, NotImplementedError, AssertionError)
"""What timm's models raise on arguments that they do not take."""


def _download(spec: BackboneSpec) -> nn.Module:
    try:
        return _create(spec, pretrained=True)
    except ValueError:
        raise
    except Exception as error:
        raise ArtifactError(
            f"Expected timm's pretrained weights of `{spec.name}` to be available, but got "
            f"{type(error).__name__}: {error}. Where there is no network, fetch the model's "
            "`model.safetensors` elsewhere and give its path as the weights."
        ) from error


def _load_weights(model: nn.Module, name: str, path: Path) -> None:
    entries = _without_classifier(_read(path), model)
    if problem := mismatch(entries, model.state_dict()):
        raise ArtifactError(f"Expected {path} to hold the weights of `{name}`, but got {problem}.")
    model.load_state_dict(entries)


def mismatch(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> str:
    """Describe how the keys and shapes of ``found`` differ from ``expected``; empty when they agree."""
    parts = {
        "missing keys": sorted(expected.keys() - found.keys()),
        "unexpected keys": sorted(found.keys() - expected.keys()),
        "keys of another shape": [
            f"{key} {tuple(found[key].shape)} instead of {tuple(expected[key].shape)}"
            for key in sorted(expected.keys() & found.keys())
            if found[key].shape != expected[key].shape
        ],
    }
    return "; ".join(f"{len(keys)} {what}: {_shortened(keys)}" for what, keys in parts.items() if keys)


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise ArtifactError(f"Expected a safetensors file at {path}, but there is none.") from error
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"Expected {path} to be a safetensors file, but got {error}.") from error


def _without_classifier(entries: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    classifier = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return {key: value for key, value in entries.items() if not key.startswith(tuple(f"{n}." for n in names))}


def _shortened(keys: list[str], most: int = 5) -> str:
    shown = ", ".join(keys[:most])
    return shown if len(keys) <= most else f"{shown} and {len(keys) - most} more"


def _frozen(value: Any) -> Any:
    return tuple(_frozen(entry) for entry in value) if isinstance(value, list | tuple) else value
