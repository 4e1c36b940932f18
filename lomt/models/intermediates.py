"""What a truncated backbone is, and the coarse way to cut one: timm's ``forward_intermediates``."""

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lomt.errors import UnknownNameError, UnsupportedLayerError
from lomt.models.candidates import timm_features
from lomt.models.measure import counting, without_data

__all__ = [
    "Backbone",
    "IntermediatesBackbone",
    "list_intermediates",
    "listed_features",
    "truncate_by_intermediates",
]

_logger = logging.getLogger(__name__)


class Backbone(nn.Module):
    """A backbone cut after its deepest branch point: images in, a dict of features by layer name out.

    Args:
        channels: Channels of the features of each layer.
        reduction: Image height over feature height of each layer.
    """

    def __init__(self, channels: Mapping[str, int], reduction: Mapping[str, int]) -> None:
        super().__init__()
        self.channels = dict(channels)
        self.reduction = dict(reduction)

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of the layers whose features are put out."""
        return tuple(self.channels)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> dict[str, Tensor]:
        """Compute the features of every layer, each (batch, channels, height, width)."""
        raise TypeError("Expected a kind of `Backbone` made by `truncate`, but got the bare class.")


class IntermediatesBackbone(Backbone):
    """A backbone whose graph torch.fx cannot give: timm's own model, pruned after the deepest layer.

    The timm model is not a submodule. Both hold the same dicts of modules, parameters and buffers, so that
    state-dict keys, ``parameters()``, ``to()`` and ``copy.deepcopy`` see timm's names without a prefix.

    Args:
        model: A pruned timm model; becomes part of this one.
        indices: Index of each layer among the model's intermediates, by name.
        channels: Channels of the features of each layer.
        reduction: Image height over feature height of each layer.
    """

    def __init__(
        self,
        model: nn.Module,
        indices: Mapping[str, int],
        channels: Mapping[str, int],
        reduction: Mapping[str, int],
    ) -> None:
        super().__init__(channels, reduction)
        self._indices = dict(indices)
        for shared in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            object.__setattr__(self, shared, getattr(model, shared))
        self._timm_model: nn.Module
        object.__setattr__(self, "_timm_model", model)
        self.training = model.training

    def train(self, mode: bool = True) -> "IntermediatesBackbone":
        self._timm_model.training = mode
        return super().train(mode)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> dict[str, Tensor]:
        wanted = sorted(self._indices.values())
        features = dict(zip(wanted, _intermediates(self._timm_model, images, wanted), strict=True))
        return {name: features[index] for name, index in self._indices.items()}


def truncate_by_intermediates(backbone: nn.Module, names: Sequence[str], reason: str) -> Backbone:
    """Cut a backbone at features that timm lists.

    Args:
        backbone: A timm model; left as it was.
        names: Names of listed features.
        reason: Why a finer cut is not possible; logged.

    Raises:
        UnknownNameError: timm does not list such a feature.
        UnsupportedLayerError: The model has no ``forward_intermediates``.
    """
    features = listed_features(backbone, reason)
    for name in names:
        if name not in features:
            raise UnknownNameError("layer", name, features)
    order = list(features)
    indices = {name: order.index(name) for name in names}
    model: Any = copy.deepcopy(backbone)
    model.prune_intermediate_layers(sorted(indices.values()))
    channels = {name: features[name]["num_chs"] for name in names}
    return IntermediatesBackbone(
        model, indices, channels, {name: features[name]["reduction"] for name in names}
    )


def list_intermediates(
    backbone: nn.Module, size: tuple[int, int], granularity: str, reason: str
) -> list[dict[str, Any]]:
    """List the features that timm lists, with the costs of the backbone pruned after each.

    Args:
        backbone: A timm model; left as it was.
        size: Height and width of the images in pixels.
        granularity: ``"block"`` or ``"all"``; there are no convolutions to list.
        reason: Why a finer list is not possible; logged.

    Returns:
        One dict a layer, with ``name``, ``kind``, ``channels``, ``reduction``, ``params`` and ``macs``.

    Raises:
        UnsupportedLayerError: The model has no ``forward_intermediates``, or convolutions are asked for.
        ValueError: The model does not take images of this size.
    """
    features = listed_features(backbone, reason)
    if granularity == "conv":
        raise UnsupportedLayerError(
            f"Expected `granularity` to be `block` for {type(backbone).__name__}, whose convolutions cannot "
            f"be told apart, but got `conv`: {reason}."
        )
    costs = dict(_costs(without_data(backbone).eval(), list(features), size))
    return [
        {
            "name": name,
            "kind": "block",
            "channels": info["num_chs"],
            "reduction": info["reduction"],
            "params": costs[name][0],
            "macs": costs[name][1],
        }
        for name, info in features.items()
    ]


def _costs(model: Any, names: list[str], size: tuple[int, int]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Prune a model layer by layer from the end; yields parameters and multiply-accumulates."""
    for index in reversed(range(len(names))):
        model.prune_intermediate_layers([index])
        flops = FlopCounterMode(display=False)
        try:
            with counting(flops):
                _intermediates(model, torch.empty(1, 3, *size), [index])
        except AssertionError as error:
            raise ValueError(
                f"Expected `size` to be one that the backbone takes, but got {size}: {error}"
            ) from error
        params = sum(parameter.numel() for parameter in model.parameters())
        yield names[index], (params, flops.get_total_flops() // 2)


def _intermediates(model: Any, images: Tensor, indices: list[int]) -> list[Tensor]:
    features: list[Tensor] = model.forward_intermediates(
        images, indices=indices, output_fmt="NCHW", intermediates_only=True
    )
    return features


def listed_features(backbone: nn.Module, reason: str) -> dict[str, dict[str, Any]]:
    """List by name what timm knows of the features of a model that torch.fx cannot cut.

    Args:
        backbone: A timm model.
        reason: Why a finer cut is not possible; logged.

    Raises:
        UnsupportedLayerError: The model has no ``forward_intermediates``.
    """
    kind = type(backbone).__name__
    if not (hasattr(backbone, "forward_intermediates") and hasattr(backbone, "prune_intermediate_layers")):
        raise UnsupportedLayerError(
            "Expected a backbone that torch.fx can cut or with timm's `forward_intermediates`, "
            f"but got {kind} with neither: {reason}. Choose another backbone."
        )
    features = {info["module"]: info for info in timm_features(backbone)}
    _logger.warning("%s is cut only at %d layers that timm lists, because %s.", kind, len(features), reason)
    return features
