"""A ResNet-50 with one in three residual branches dead: whether whole layers go, without any change."""

from typing import Any

import timm
import torch
from prune_latency import gains, images
from torch import nn

from lomt.pruning.prune import prune

MOST_ERROR = 1e-9
EVERY = 3


def measure_dead(seconds: float) -> dict[str, dict[str, Any]]:
    """Return what is gone, the change in float64, the gains and missed targets.

    Args:
        seconds: Recorded for each latency.
    """
    dense, names = _dying_network()
    image = images()
    smaller = prune(dense, image.double()).model
    gone = [name for name in names if not _convolutions(smaller, name)]
    error = max(_change(dense, smaller, size) for size in (224, 160))
    found, shared = gains(dense.float(), {"pruned": smaller.float()}, image, seconds)
    missed = list(found["pruned"].missed)
    if len(gone) < len(names):
        missed.append(f"{len(gone)} of {len(names)} dead branches are gone")
    if not error <= MOST_ERROR:
        missed.append(f"outputs change by {error:.1g}, more than {MOST_ERROR:.0g}")
    return {
        "resnet50": {
            "dead_branches": len(names),
            "branches_gone": len(gone),
            "largest_relative_change": error,
            "dense": shared,
            "pruned": found["pruned"].to_dict(),
            "missed": missed,
        }
    }


def _dying_network() -> tuple[nn.Module, list[str]]:
    """Return the network in float64 and the names of the blocks whose last convolution is zero."""
    torch.manual_seed(0)
    model = timm.create_model("resnet50", zero_init_last=False).double().eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            for values in (part.weight, part.running_var):
                nn.init.uniform_(values, 0.5, 1.5)
            for values in (part.bias, part.running_mean):
                nn.init.normal_(values, std=0.2)
    blocks = [name for name, part in model.named_modules() if isinstance(part, timm.models.resnet.Bottleneck)]
    dead = blocks[1::EVERY]
    for name in dead:
        nn.init.zeros_(model.get_submodule(name).conv3.weight)
    return model, dead


def _convolutions(model: nn.Module, block: str) -> list[str]:
    """Convolutions left in a block's branch."""
    try:
        branch = model.get_submodule(block)
    except AttributeError:  # the block itself is gone
        return []
    return [name for name, part in branch.named_children() if isinstance(part, nn.Conv2d)]


def _change(before: nn.Module, after: nn.Module, size: int) -> float:
    image = images(size).double()
    with torch.no_grad():
        expected, found = before(image), after(image)
    return float((found - expected).abs().max() / expected.abs().max())
