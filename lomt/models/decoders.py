"""Decoders: a task's own part of the network, from features to predictions at the features' resolution."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP

from lomt.errors import UnknownNameError

__all__ = ["AsppDecoder", "DecoderKind", "DecoderSpec", "build_decoder", "set_output_biases"]

DecoderKind = Literal["aspp", "linear", "classifier"]


@dataclass(frozen=True)
class DecoderSpec:
    """Kind and size of a decoder.

    Args:
        kind: ``"aspp"`` (DeepLabV3's head, for maps), ``"linear"`` (one projection of every pixel, or of
            the mean over pixels for one answer per image) or ``"classifier"`` (mean over pixels, an
            optional hidden layer, a projection).
        width: Channels inside ``"aspp"``. The papers use 256, which dwarfs a small backbone.
        rates: Dilations of the 3x3 convolutions in ``"aspp"``.
        dropout: Probability of dropout before the last layers, below 1.
        pooling_norm: Whether the image-pooling branch of ``"aspp"`` has a BatchNorm, as published. It sees
            one value per image and channel, and therefore needs batches of two images or more in train
            mode; without it the branch's convolution has a bias instead.
        hidden_width: Width of the hidden layer of ``"classifier"``; ``None`` for no hidden layer.
    """

    kind: DecoderKind | str = "aspp"
    width: int = 64
    rates: Sequence[int] = (6, 12, 18)
    dropout: float = 0.0
    pooling_norm: bool = True
    hidden_width: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(DecoderKind):
            raise UnknownNameError("decoder", self.kind, get_args(DecoderKind))
        object.__setattr__(self, "rates", tuple(self.rates))
        for name, value in (("width", self.width), ("hidden_width", self.hidden_width)):
            if value is not None and value < 1:
                raise ValueError(f"Expected `{name}` of a decoder to be at least 1, but got {value}.")
        if not self.rates or min(self.rates) < 1:
            raise ValueError(
                f"Expected `rates` of a decoder to be dilations of at least 1, but got {self.rates}."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"Expected `dropout` of a decoder to be in [0, 1), but got {self.dropout}.")


def build_decoder(spec: DecoderSpec, in_channels: int, out_channels: int, is_dense: bool) -> nn.Module:
    """Build a decoder with random weights.

    Args:
        spec: Kind and size.
        in_channels: Channels of the features that it reads.
        out_channels: Channels of its predictions.
        is_dense: Whether there is a prediction for every pixel, not one for the image.

    Returns:
        A module from features (batch, in_channels, height, width) to predictions (batch, out_channels,
        height, width), or (batch, out_channels) where ``is_dense`` is false.

    Raises:
        ValueError: The kind of decoder does not give predictions of this form.
    """
    builder = _BUILDERS.get((spec.kind, is_dense))
    if builder is None:
        fitting = " or ".join(f"`{kind}`" for kind, dense in _BUILDERS if dense == is_dense)
        form = "a prediction for every pixel" if is_dense else "one prediction per image"
        raise ValueError(
            f"Expected the decoder of a task with {form} to be {fitting}, but got `{spec.kind}`."
        )
    return builder(spec, in_channels, out_channels)


class AsppDecoder(nn.Sequential):
    """DeepLabV3's head at a chosen width: atrous spatial pyramid pooling, 3x3 convolution, 1x1 projection.

    Args:
        spec: Width, rates, dropout and whether the pooling branch is normalised.
        in_channels: Channels of the features.
        out_channels: Channels of the predictions.

    References:
        Chen, Papandreou, Schroff, Adam, "Rethinking Atrous Convolution for Semantic Image Segmentation",
        2017, https://arxiv.org/abs/1706.05587, section 3.3.
    """

    def __init__(self, spec: DecoderSpec, in_channels: int, out_channels: int) -> None:
        width = spec.width
        super().__init__(
            OrderedDict(
                aspp=_aspp(spec, in_channels),
                conv=nn.Conv2d(width, width, 3, padding=1, bias=False),
                norm=nn.BatchNorm2d(width),
                act=nn.ReLU(),
                head=nn.Conv2d(width, out_channels, 1),
            )
        )

    def forward(
        self, features: Float[Tensor, "batch in_channels height width"]
    ) -> Float[Tensor, "batch out_channels height width"]:
        """Predict for every pixel of the features.

        Raises:
            ValueError: One image in train mode, of which the pooling branch's BatchNorm has no statistics.
        """
        norm = cast(nn.Sequential, cast(ASPP, self.aspp).convs[-1])[2]
        # BatchNorm synchronised over processes is another class: there the images of all of them count.
        if type(norm) is nn.BatchNorm2d and norm.training and features.shape[0] == 1:
            raise ValueError(
                "Expected a batch of at least 2 images in train mode, because the ASPP decoder normalises "
                "pooled features over the batch, but got 1. Leave out a last batch of one image, or set "
                "`pooling_norm` of the decoder to false."
            )
        predictions: Tensor = super().forward(features)
        return predictions


@torch.no_grad()
def set_output_biases(decoders: nn.ModuleDict, biases: Mapping[str, Tensor]) -> None:
    """Set what the heads of decoders predict before they look at features.

    Args:
        decoders: By task, from `build_decoder`; changed in place.
        biases: By task, (out_channels,).
    """
    for task, bias in biases.items():
        head = cast(nn.Module, decoders[task].head)
        cast(nn.Parameter, head.bias).copy_(bias)


def _aspp(spec: DecoderSpec, in_channels: int) -> ASPP:
    aspp = ASPP(in_channels, spec.rates, spec.width)
    aspp.project[3] = nn.Dropout(spec.dropout)
    if not spec.pooling_norm:
        pooling = aspp.convs[-1]
        pooling[1], pooling[2] = nn.Conv2d(in_channels, spec.width, 1), nn.Identity()
    return aspp


def _pixel_projection(spec: DecoderSpec, in_channels: int, out_channels: int) -> nn.Module:
    head = nn.Conv2d(in_channels, out_channels, 1)
    return nn.Sequential(OrderedDict(dropout=nn.Dropout(spec.dropout), head=head))


def _classifier(spec: DecoderSpec, in_channels: int, out_channels: int) -> nn.Module:
    parts: OrderedDict[str, nn.Module] = OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
    width = in_channels
    if spec.kind == "classifier" and spec.hidden_width is not None:
        parts["hidden"], parts["act"] = nn.Linear(in_channels, spec.hidden_width), nn.ReLU()
        width = spec.hidden_width
    parts["dropout"], parts["head"] = nn.Dropout(spec.dropout), nn.Linear(width, out_channels)
    return nn.Sequential(parts)


_BUILDERS: dict[tuple[str, bool], Callable[[DecoderSpec, int, int], nn.Module]] = {
    ("aspp", True): AsppDecoder,
    ("linear", True): _pixel_projection,
    ("linear", False): _classifier,
    ("classifier", False): _classifier,
}
