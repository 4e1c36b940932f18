"""What one example is when a layer's outputs are maps: a pixel, with its features and what is wanted of it."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from lomt.tasks import Task
from lomt.tasks.losses import CrossEntropy

__all__ = ["draw_pixels", "pixel_features", "wanted_outputs"]


def draw_pixels(
    size: torch.Size, images: int, most: int | None, generator: torch.Generator
) -> Int[Tensor, "images pixels"]:
    """Return the flat positions of the pixels to look at, each at most once.

    Args:
        size: Height and width.
        images: How many images.
        most: Pixels of an image; None for all, in order.
        generator: Of the draw, on the CPU.
    """
    count = size.numel()
    if most is None or most >= count:
        return torch.arange(count).expand(images, count)
    return torch.rand(images, count, generator=generator).topk(most, dim=1).indices


def pixel_features(
    features: Float[Tensor, "images channels rows columns"],
    size: torch.Size,
    places: Int[Tensor, "images pixels"],
) -> Float[Tensor, "examples channels"]:
    """Return features at pixels, image by image, as bilinear enlargement to a size would give them; differentiable.

    Args:
        features: Of the layer.
        size: Height and width of the outputs.
        places: Flat positions in the outputs.
    """
    height, width = size
    rows = places.div(width, rounding_mode="floor").to(features)
    columns = (places % width).to(features)
    grid = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], dim=-1)
    found = F.grid_sample(
        features, grid[:, None], mode="bilinear", padding_mode="border", align_corners=False
    )
    return found[:, :, 0].transpose(1, 2).flatten(0, 1)


def wanted_outputs(
    task: Task, target: Tensor, places: Int[Tensor, "images pixels"] | None
) -> tuple[Float[Tensor, "examples outputs"], Bool[Tensor, "examples outputs"]]:
    """Return what the outputs should be, class indices as probabilities, and which of them are labelled.

    Args:
        task: With a loss that BayesAgg supports.
        target: In the kind's shape.
        places: Flat positions of the pixels; None where an answer is for the whole image.
    """
    layout = task.loss.layout
    if layout.facts.holds_labels:
        target = target[:, None]
    if places is None:
        flat = target
    else:
        images = target.flatten(2)
        picked = images.gather(2, places[:, None].expand(-1, images.shape[1], -1))
        flat = picked.transpose(1, 2).flatten(0, 1)
    valid = layout.facts.find_valid(flat)
    if isinstance(task.loss, CrossEntropy):
        hot = F.one_hot(flat[:, 0].long().clamp(0, layout.channels - 1), layout.channels).double()
        smoothing = task.loss.label_smoothing
        return (1 - smoothing) * hot + smoothing / layout.channels, valid.expand(-1, layout.channels)
    return torch.where(valid, flat, 0).double(), valid
