"""Learnable soft thresholds on single weights, one for each part of a network, as AdapMTL has them."""

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lomt.errors import SparsityTargetError, UnknownNameError

__all__ = ["PUBLISHED_LOGIT", "SoftThresholds", "add_soft_thresholds", "soft_threshold", "starting_logit"]

PUBLISHED_LOGIT = -30.5
"""The published code's default; its authors advise -20 for 15 000 steps, and used -10 to -1000."""

_START = 1e-3  # of the typical weight: a threshold that changes next to nothing


def soft_threshold(weight: Float[Tensor, "*shape"], logit: Float[Tensor, ""]) -> Float[Tensor, "*shape"]:
    r"""Shrink every weight towards zero, and to zero below the threshold.

    .. math:: S(w) = \operatorname{sign}(w) \, \operatorname{relu}(|w| - \sigma(s))

    where :math:`s` is the `logit`. Differentiable in both: weights at zero have no gradient.

    Args:
        weight: Any weight; not modified.
        logit: One number :math:`s`.

    References:
        Xiang et al., "AdapMTL: Adaptive Pruning Framework for Multitask Learning Model", 2024,
        https://arxiv.org/abs/2408.03913. Kusupati et al., "Soft Threshold Weight Reparameterization for
        Learnable Sparsity", 2020, https://arxiv.org/abs/2002.03231, equation 3.
    """
    tau = torch.sigmoid(logit).to(weight.dtype)
    return torch.sign(weight) * torch.relu(weight.abs() - tau)


def starting_logit(level: float) -> float:
    """Return the logit of a threshold a thousandth of `level`, at which next to nothing is shrunk.

    Args:
        level: Size of typical or of small weights; 0 gives the published constant.
    """
    tau = _START * level
    return max(math.log(tau) - math.log1p(-tau), PUBLISHED_LOGIT) if 0 < tau < 1 else PUBLISHED_LOGIT


class SoftThresholds(nn.Module):
    """One threshold for every component of a network, applied to every weight of its layers.

    Made by `add_soft_thresholds`, and taken away by `lomt.sparsity.bake_thresholds`.

    Args:
        names: The components.
        initial: First logit of each.
        weights: The weights of each, as they are before the threshold.
    """

    def __init__(
        self, names: Sequence[str], initial: Sequence[float], weights: Sequence[Sequence[nn.Parameter]]
    ) -> None:
        super().__init__()
        self.names = tuple(names)
        self.logits = nn.Parameter(torch.tensor(initial))
        self._weights = [list(own) for own in weights]

    @property
    def thresholds(self) -> dict[str, float]:
        r"""Thresholds :math:`\tau = \sigma(s)` by name."""
        return dict(zip(self.names, torch.sigmoid(self.logits.detach()).tolist(), strict=True))

    @torch.no_grad()
    def component_sparsity(self) -> dict[str, float]:
        """Return the share of weights that are zero, by component."""
        shares = [zero / own for zero, own in self._counts()]
        return dict(zip(self.names, shares, strict=True))

    @torch.no_grad()
    def sparsity(self) -> float:
        """Return the share of zeros among all weights together: each component counts by its parameters."""
        counts = self._counts()
        return sum(zero for zero, _ in counts) / sum(own for _, own in counts)

    def _counts(self) -> list[tuple[int, int]]:
        taus = torch.sigmoid(self.logits)
        zero = torch.stack(
            [
                torch.stack([(own.abs() <= tau.to(own.dtype)).sum() for own in weights]).sum()
                for weights, tau in zip(self._weights, taus, strict=True)
            ]
        ).tolist()
        return [
            (count, sum(own.numel() for own in weights))
            for count, weights in zip(zero, self._weights, strict=True)
        ]


class _Soft(nn.Module):
    """One layer's threshold; the logit stays its owner's."""

    def __init__(self, source: SoftThresholds, index: int) -> None:
        super().__init__()
        self._source, self._index = (source,), index  # in a tuple, so that it is no submodule

    def forward(self, weight: Tensor) -> Tensor:
        return soft_threshold(weight, self._source[0].logits[self._index])


def add_soft_thresholds(
    model: nn.Module,
    *,
    component_of: Callable[[str], str] | None = None,
    components: Sequence[str] | None = None,
    initial_logit: float | None = None,
    kinds: Sequence[type[nn.Module]] = (nn.Conv2d,),
) -> SoftThresholds:
    """Put a learnable threshold before the weights of every component's layers.

    The thresholds become the model's submodule ``soft_thresholds``, whose ``logits`` are ordinary parameters: make
    the optimizer afterwards. Biases and norms have no threshold.

    Args:
        model: Changed in place.
        component_of: Tells from a parameter's name which component it belongs to. None makes the whole model
            one, ``"model"``.
        components: The components that get a threshold; all if None.
        initial_logit: First logit of all, such as `PUBLISHED_LOGIT`. None starts each at a thousandth
            of the component's median weight, which changes next to nothing.
        kinds: Kinds of layers.

    Raises:
        UnknownNameError: If there is no such component.
        SparsityTargetError: If there is no layer, or there are thresholds already.
    """
    _check_plain(model)
    layers: dict[str, list[nn.Module]] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, tuple(kinds)):
            part = component_of(f"{name}.weight" if name else "weight") if component_of else "model"
            layers.setdefault(part, []).append(cast(nn.Module, layer))
    for name in components or ():
        if name not in layers:
            raise UnknownNameError("component", name, layers)
    if not layers:
        told = ", ".join(kind.__name__ for kind in kinds)
        raise SparsityTargetError(f"Expected the model to have layers of kind {told}, but got none.")
    names = [name for name in layers if components is None or name in components]
    weights = [_distinct_weights(layers[name]) for name in names]
    first = [_median(own) if initial_logit is None else initial_logit for own in weights]
    source = SoftThresholds(names, first, weights)
    source.logits.data = source.logits.data.to(weights[0][0].device)
    model.add_module("soft_thresholds", source)
    for index, name in enumerate(names):
        for layer in layers[name]:
            parametrize.register_parametrization(layer, "weight", _Soft(source, index))
    return source


def _distinct_weights(layers: Sequence[nn.Module]) -> list[nn.Parameter]:
    found = (cast(nn.Parameter, layer.weight) for layer in layers)
    return list({id(weight): weight for weight in found}.values())


def _median(weights: Sequence[Tensor]) -> float:
    with torch.no_grad():
        return starting_logit(float(torch.cat([own.abs().flatten() for own in weights]).median()))


def _check_plain(model: nn.Module) -> None:
    for name in ("soft_thresholds", "group_thresholds"):
        if hasattr(model, name):
            raise SparsityTargetError(
                f"Expected the model to have no thresholds yet, but got one with `{name}`. "
                "Bake them in first with bake_thresholds(model)."
            )
