"""From samples to a batch."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from lomt.data.array_pool import ArrayPool
from lomt.data.half_precision import convert
from lomt.data.sample import IMAGE, Sample, TargetSpec

__all__ = ["collate"]

_INTEGER_KINDS = ("segmentation", "classification")


def collate(
    samples: Sequence[Sample], targets: Mapping[str, TargetSpec], pool: ArrayPool | None = None
) -> dict[str, Tensor]:
    """Stack samples into a batch in the conventions of `lomt.data.sample`.

    Everything is done in the calling thread: PyTorch would start a second pool of threads beside the one that
    trains.

    Args:
        samples: At least one; all of the same height and width.
        targets: The targets to take, by name.
        pool: Where the batch's memory comes from; fresh by default.

    Returns:
        The image, float32 ``(B, 3, H, W)`` from 0 to 1, and every target.
    """
    pool = pool or ArrayPool()
    height, width, channels = samples[0][IMAGE].shape
    images = pool.empty((len(samples), channels, height, width), np.float32)
    for image, sample in zip(images, samples, strict=True):
        np.multiply(sample[IMAGE].transpose(2, 0, 1), np.float32(1 / 255), out=image)
    batch = {IMAGE: torch.from_numpy(images)}
    for name, target in targets.items():
        dtype = np.int64 if target.kind in _INTEGER_KINDS else np.float32
        values = pool.empty((len(samples), *samples[0][name].shape), dtype)
        for row, sample in enumerate(samples):
            if sample[name].dtype == np.float16:
                convert(sample[name], values[row])
            else:
                values[row] = sample[name]
        batch[name] = torch.from_numpy(values)
    return batch
