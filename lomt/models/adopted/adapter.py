"""What lets a decoder read another layer than the one it was made for."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lomt.models.adopted.answers import AdoptionError
from lomt.models.adopted.features import Feature

__all__ = ["Adapter", "AdapterFit"]


class Adapter(nn.Module):
    """Maps the features of one layer to the channels and the size of another's.

    Maps are averaged to the other's size or enlarged bilinearly, projected by a 1x1 convolution and normalised;
    tokens are projected, and pooled features averaged over the image and projected. :class:`AdapterFit` starts it at
    the linear map that comes nearest to the other layer's features.

    Args:
        source: What is read.
        target: What the decoder was made for.

    Raises:
        AdoptionError: There is no such map, as between tokens and feature maps.
    """

    def __init__(self, source: Feature, target: Feature) -> None:
        super().__init__()
        forms = (source.form, target.form)
        has_same_tokens = forms == ("tokens", "tokens") and source.shape[0] == target.shape[0]
        self.shrink, self.enlarge = _shrink(source, target), _enlarge(source, target)
        self.project: nn.Conv2d | nn.Linear
        self.norm: nn.Module = nn.Identity()
        if forms == ("map", "map"):
            self.project = nn.Conv2d(source.channels, target.channels, 1, bias=False)
            self.norm = nn.BatchNorm2d(target.channels)
        elif forms in (("map", "vector"), ("vector", "vector")) or has_same_tokens:
            self.project = nn.Linear(source.channels, target.channels)
        else:
            raise AdoptionError(
                f"Expected layer `{source.name}` to have features like those of `{target.name}`, which a decoder was "
                f"made for, but got {source.form} of shape {source.shape} in place of {target.form} of shape "
                f"{target.shape}. Choose another layer."
            )

    def forward(self, features: Tensor) -> Tensor:
        """Map features, (batch, channels, height, width) or (batch, tokens, channels), to the target's form."""
        projected: Tensor = self.enlarge(self.norm(self.project(self.shrink(features))))
        return projected


class AdapterFit:
    r"""Sets an adapter to the ridge regression of the target's features on the source's.

    The fewer pixels a channel there are, as in deep layers, the stronger the ridge is: channels over pixels times the
    features' mean variance, which of multiples from 0 to 10 was best or next to it on images that the fit had not seen
    (`benchmarks/bench_adapters.py`).

    :math:`W = \arg\min \sum_i \|y_i - W x_i - b\|^2 + \rho \|W\|^2` over all pixels or tokens; the norm starts as the
    identity on these features. A map that is enlarged afterwards is fitted at the source's size.

    Args:
        adapter: Changed in place by :meth:`finish`.
        ridge: Multiple of that strength.
    """

    def __init__(self, adapter: Adapter, ridge: float = 1.0) -> None:
        self._adapter, self._ridge = adapter, ridge
        self._count = 0
        self._moments: tuple[Tensor, ...] | None = None

    @torch.no_grad()
    def add(self, source: Tensor, target: Tensor) -> None:
        """Take the source's and the target's features of the same images, a batch at a time."""
        shrunk = self._adapter.shrink(source)
        x, y = _rows(shrunk), _rows(_at_size_of(shrunk, target))
        found = (x.sum(0), y.sum(0), x.T @ x, x.T @ y)
        before = self._moments
        self._moments = found if before is None else tuple(a + b for a, b in zip(before, found, strict=True))
        self._count += len(x)

    @torch.no_grad()
    def finish(self) -> None:
        """Set the adapter.

        Raises:
            ValueError: There were no features.
        """
        if self._moments is None:
            raise ValueError("Expected at least one batch of features to fit an adapter on, but got none.")
        mean_x, mean_y, product_x, product_xy = (sums / self._count for sums in self._moments)
        within = product_x - torch.outer(mean_x, mean_x)
        across = product_xy - torch.outer(mean_x, mean_y)
        ridge = self._ridge * len(within) / self._count * within.diagonal().mean().clamp(min=1e-12)
        weight = torch.linalg.solve(within + ridge * torch.eye(len(within), dtype=within.dtype), across).T
        project, norm = self._adapter.project, self._adapter.norm
        project.weight.copy_(weight.reshape(project.weight.shape))
        if project.bias is not None:
            project.bias.copy_(mean_y - weight @ mean_x)
        if isinstance(norm, nn.BatchNorm2d):
            variance = ((weight @ within) * weight).sum(1).clamp(min=0)
            _set_to_identity(norm, weight @ mean_x, variance, mean_y)


def _set_to_identity(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, wanted_mean: Tensor) -> None:
    """Let a norm see features of this mean and variance and give them back around the mean that is wanted."""
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_((variance + norm.eps).sqrt())
    norm.bias.copy_(wanted_mean)


def _rows(features: Tensor) -> Tensor:
    """Return (pixels or tokens, channels) in float64."""
    if features.ndim == 4:
        features = features.movedim(1, -1)
    return features.flatten(0, -2).double()


def _at_size_of(shrunk: Tensor, target: Tensor) -> Tensor:
    """Return a target that is a larger map at the size of the features that are projected."""
    if target.ndim != 4 or target.shape[2:] == shrunk.shape[2:]:
        return target
    height, width = shrunk.shape[2:]
    return functional.adaptive_avg_pool2d(target, (height, width))


def _shrink(source: Feature, target: Feature) -> nn.Module:
    if target.form == "vector" and source.form == "map":
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    if source.form != "map" or target.form != "map" or source.shape[1] <= target.shape[1]:
        return nn.Identity()
    if target.shape[1:] == (1, 1):
        return nn.AdaptiveAvgPool2d(1)
    factor = _factor(source.shape, target.shape)
    return nn.AvgPool2d(factor, ceil_mode=True, count_include_pad=False)


def _enlarge(source: Feature, target: Feature) -> nn.Module:
    if source.form != "map" or target.form != "map" or source.shape[1] >= target.shape[1]:
        return nn.Identity()
    factor = _factor(target.shape, source.shape)
    return nn.Upsample(scale_factor=float(factor), mode="bilinear", align_corners=False)


def _factor(larger: tuple[int, ...], smaller: tuple[int, ...]) -> int:
    return max(round(larger[1] / smaller[1]), 1)
