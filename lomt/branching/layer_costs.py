"""What it costs to compute each candidate layer, as a share of computing the deepest."""

import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Literal, get_args

import torch
from torch import nn

from lomt.errors import UnknownNameError
from lomt.models import Layer, truncate

__all__ = ["LayerCost", "cost_factors", "layer_costs"]

LayerCost = Literal["macs", "milliseconds"]
_ROUNDS = 9


def layer_costs(
    backbone: nn.Module, layers: Sequence[Layer], size: tuple[int, int], cost: LayerCost | str = "macs"
) -> dict[str, float]:
    """Return what the backbone cut after each layer costs.

    Args:
        backbone: The whole model; left as it was.
        layers: Candidates in forward order.
        size: Height and width of the images in pixels.
        cost: ``"macs"``: multiply-accumulates. ``"milliseconds"``: median time of one image in eval mode, all cuts
            measured in turn, in this process on the CPU. Measured values differ from run to run.

    Returns:
        By layer; never less than a layer before it costs.

    Raises:
        UnknownNameError: If there is no such cost.
    """
    if cost not in get_args(LayerCost):
        raise UnknownNameError("cost", cost, get_args(LayerCost))
    found = {layer.name: float(layer.macs) for layer in layers}
    if cost == "milliseconds":
        found = _milliseconds(backbone, layers, size)
    highest, rising = 0.0, {}
    for layer in layers:
        highest = max(highest, found[layer.name])
        rising[layer.name] = highest
    return rising


def cost_factors(costs: Mapping[str, float], exponent: float = 0.5) -> dict[str, float]:
    r"""Return :math:`(c_l / \max_k c_k)^p`, the factor on the group lasso's weight of each layer.

    Args:
        costs: Cumulative cost :math:`c_l > 0` by layer.
        exponent: :math:`p \ge 0`; 0 makes all layers equal.

    Example:
        >>> cost_factors({"shallow": 1.0, "deep": 4.0})
        {'shallow': 0.5, 'deep': 1.0}
    """
    highest = max(costs.values())
    return {name: (cost / highest) ** exponent for name, cost in costs.items()}


def _milliseconds(backbone: nn.Module, layers: Sequence[Layer], size: tuple[int, int]) -> dict[str, float]:
    parts = {layer.name: truncate(backbone, [layer.name]).eval() for layer in layers}
    image = torch.rand(1, 3, *size)
    times: dict[str, list[float]] = {name: [] for name in parts}
    with torch.inference_mode():
        for _ in range(_ROUNDS + 1):
            for name, part in parts.items():
                began = time.perf_counter()
                part(image)
                times[name].append(1000 * (time.perf_counter() - began))
    return {name: median(own[1:]) for name, own in times.items()}  # the first round warms up
