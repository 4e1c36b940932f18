r"""A multitask network in which every task reads every candidate layer, so that sparsity can choose among them.

Task :math:`t` decodes :math:`\sum_l W_{tl} \, \hat{x}_l / \sqrt{C_l}`, where :math:`\hat{x}_l` are layer
:math:`l`'s :math:`C_l` channels, normalised over the batch and resized to one common stride, and :math:`W_{tl}` is a
1x1 projection. A task that needs nothing of a layer can have :math:`W_{tl} = 0`.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lomt.errors import LomtError
from lomt.models import Backbone, ModelSpec, build_decoder, set_output_biases

__all__ = ["FeatureSelection", "SelectionError", "SelectionModel"]


class SelectionError(LomtError, ValueError):
    """Candidate layers among which nothing can be chosen."""


class FeatureSelection(nn.Module):
    """Normalise, resize, project and add up the features of all layers, for every task at once.

    Args:
        channels: Channels of each candidate layer, in forward order.
        reduction: Image height over feature height of each.
        tasks: How many tasks read them.
        width: Channels of each task's sum.
        stride: Image height over height of the sums. Finer layers are averaged down, coarser ones enlarged.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        reduction: Mapping[str, int],
        tasks: int,
        *,
        width: int = 32,
        stride: int = 8,
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise SelectionError(
                "Expected at least 2 candidate layers for the joint method to choose among, but got "
                f"{', '.join(f'`{name}`' for name in channels) or 'none'}. Choose another "
                "`locate.granularity` or backbone, or set `locate.method` to single_task."
            )
        self.layer_names, self._reduction = tuple(channels), dict(reduction)
        self._tasks, self._width, self._stride = tasks, width, stride
        self.norms = nn.ModuleList(nn.BatchNorm2d(count, affine=False) for count in channels.values())
        self.projections = nn.ParameterList(
            nn.Parameter(torch.randn(tasks, width, count)) for count in channels.values()
        )

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The projections by layer, (tasks, width, channels)."""
        return dict(zip(self.layer_names, self.projections, strict=True))

    @torch.no_grad()
    def set_start(self, scales: Mapping[str, float]) -> None:
        r"""Scale every (task, layer) group to the norm :math:`s_l \sqrt{n_g}`, :math:`n_g` its entries.

        Args:
            scales: :math:`s_l > 0` by layer. In proportion to the layers' cost factors no group dies before another
                by its size at the start.
        """
        for name, weight in self.weights.items():
            norms = torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True)
            weight.mul_(scales[name] * math.sqrt(weight[0].numel()) / norms)

    def forward(
        self, features: Mapping[str, Tensor], size: tuple[int, int]
    ) -> Float[Tensor, "tasks batch width height width2"]:
        """Return each task's sum.

        Args:
            features: By layer, (batch, channels, height, width).
            size: Height and width of the images in pixels.
        """
        common = (-(-size[0] // self._stride), -(-size[1] // self._stride))
        total: Tensor | None = None
        for name, norm, weight in zip(self.layer_names, self.norms, self.projections, strict=True):
            own = features[name]
            if self._reduction[name] < self._stride:
                own = functional.adaptive_avg_pool2d(own, common)
            kernel = weight.flatten(0, 1)[:, :, None, None] / math.sqrt(weight.shape[2])
            projected = functional.conv2d(norm(own), kernel)
            if projected.shape[-2:] != common:
                projected = functional.interpolate(
                    projected, size=common, mode="bilinear", align_corners=False
                )
            total = projected if total is None else total + projected
        assert total is not None, "at least two layers"
        sums: Tensor = total.unflatten(1, (self._tasks, self._width)).transpose(0, 1)
        return sums


class SelectionModel(nn.Module):
    """A backbone, the feature selection, and each task's own decoder on its sum.

    Args:
        spec: Tasks and decoders; its branch points do not matter.
        backbone: Puts out the features of all candidate layers.
        width: Channels of each task's sum.
        stride: Image height over height of the sums; None takes that of the deepest candidate, at most 8.

    Raises:
        SelectionError: If there are less than two candidate layers.
    """

    def __init__(
        self, spec: ModelSpec, backbone: Backbone, *, width: int = 32, stride: int | None = None
    ) -> None:
        super().__init__()
        deepest = list(backbone.reduction.values())[-1:]
        self.spec = replace(spec, branch_points={})
        self.backbone = backbone
        self.selection = FeatureSelection(
            backbone.channels,
            backbone.reduction,
            len(spec.decoders),
            width=width,
            stride=stride or min([*deepest, 8]),
        )
        self.decoders = nn.ModuleDict(
            {
                task: build_decoder(decoder, width, spec.out_channels[task], spec.dense[task])
                for task, decoder in spec.decoders.items()
            }
        )

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> dict[str, Tensor]:
        """Predict all tasks, as :class:`lomt.models.MultiTaskModel` does."""
        size = cast(tuple[int, int], tuple(images.shape[-2:]))
        sums = self.selection(self.backbone(images), size)
        predictions = {}
        for features, (task, decoder) in zip(sums, self.decoders.items(), strict=True):
            prediction = decoder(features)
            if self.spec.dense[task]:
                prediction = functional.interpolate(
                    prediction, size=size, mode="bilinear", align_corners=False
                )
            predictions[task] = prediction
        return predictions

    def set_output_biases(self, biases: Mapping[str, Tensor]) -> None:
        """Set what the heads predict before they look at features.

        Args:
            biases: By task, (out_channels,).
        """
        set_output_biases(self.decoders, biases)
