"""How much of what a decoder was made for can be had from another layer."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from lomt.models.adopted.adapter import Adapter, AdapterFit
from lomt.models.adopted.adoption import Adoption
from lomt.models.adopted.answers import AdoptionError
from lomt.models.adopted.features import Feature
from lomt.models.graph_module import GraphModule

__all__ = ["Explanation", "explain"]


class Explanation:
    r"""The share of one layer's variance that an adapter from another has on images that its fit has not seen.

    :math:`1 - \sum \|y - \hat y\|^2 / \sum \|y - \bar y\|^2` over images, pixels and channels; negative where the
    channels' means alone are nearer.

    Args:
        source: What is read.
        target: What a decoder was made for.
        ridge: See :class:`AdapterFit`.

    Raises:
        AdoptionError: There is no adapter between the two.
    """

    def __init__(self, source: Feature, target: Feature, ridge: float = 1.0) -> None:
        self._adapter = Adapter(source, target).eval()
        self._fit = AdapterFit(self._adapter, ridge)
        self._left, self._sum, self._squares, self._count = 0.0, torch.zeros(()), 0.0, 0

    def learn(self, source: Tensor, target: Tensor) -> None:
        """Take both layers' features of the same images for the fit."""
        self._fit.add(source, target)

    @torch.no_grad()
    def judge(self, source: Tensor, target: Tensor) -> None:
        """Take both layers' features of further images, after all those for the fit."""
        if not self._count:
            self._fit.finish()
        wanted = target.double()
        channels_last = wanted.movedim(1, -1) if wanted.ndim == 4 else wanted
        self._left += (self._adapter(source) - wanted).square().sum().item()
        self._sum = self._sum + channels_last.flatten(0, -2).sum(0)
        self._squares += wanted.square().sum().item()
        self._count += channels_last[..., 0].numel()

    @property
    def share(self) -> float:
        """At most 1.

        Raises:
            ValueError: Nothing was judged.
        """
        if not self._count:
            raise ValueError("Expected at least one batch of features to judge an adapter on, but got none.")
        spread = self._squares - self._sum.square().sum().item() / self._count
        return 1 - self._left / max(spread, 1e-12)


def explain(
    adoption: Adoption,
    backbone: GraphModule,
    wanted: Mapping[str, Sequence[str]],
    learn: Iterable[tuple[Tensor, ...]],
    judge: Iterable[tuple[Tensor, ...]],
) -> dict[str, dict[str, float]]:
    """Return how much of some layers others explain.

    Args:
        adoption: The model taken apart.
        backbone: Computes all of these layers, by name; in eval mode.
        wanted: By layer that decoders were made for, the layers to read in its place.
        learn: The model's inputs, a tuple a batch, for the fits.
        judge: Others.

    Returns:
        By layer and by the layer to read in its place, without those that no adapter can be made for.
    """
    features = adoption.features
    found: dict[tuple[str, str], Explanation] = {}
    for target, sources in wanted.items():
        for source in sources:
            try:
                found[target, source] = Explanation(features[source], features[target])
            except AdoptionError:
                continue  # as between tokens and maps: another layer has to do
    with torch.no_grad():
        for inputs in learn:
            values = backbone.run(*inputs)
            for (target, source), own in found.items():
                own.learn(values[source], values[target])
        for inputs in judge:
            values = backbone.run(*inputs)
            for (target, source), own in found.items():
                own.judge(values[source], values[target])
    return {
        target: {source: own.share for (name, source), own in found.items() if name == target}
        for target in wanted
    }
