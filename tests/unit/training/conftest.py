"""A network of a few hundred weights and data it can learn in a second."""

import pytest
import torch
from torch import nn

from lomt.data import Augmentation, BatchLoader, TargetSpec
from lomt.tasks import make_task


class Ramps:
    """Images whose red channel is the depth and whose green channel decides on the class."""

    name = "ramps"
    fingerprint = "ramps"
    targets = {
        "depth": TargetSpec("depth", "depth"),
        "segmentation": TargetSpec("segmentation", "segmentation", ("dark", "bright")),
    }

    def __init__(self, count=24):
        self._count = count

    def __len__(self):
        return self._count

    def sample(self, index):
        import numpy as np

        generator = np.random.default_rng(index)
        image = generator.integers(0, 256, (8, 12, 3), dtype=np.uint8)
        depth = 0.5 + image[None, :, :, 0].astype(np.float32) / 255
        # A share of pixels without label that differs from image to image: means over batches must not be mixed up.
        depth[:, : index % 5] = 0
        return {"image": image, "depth": depth, "segmentation": (image[:, :, 1] > 127).astype(np.int8)}


class TinyModel(nn.Module):
    """Two convolutions with batch norm and a head per task."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.decoders = nn.ModuleDict({"depth": nn.Conv2d(8, 1, 1), "segmentation": nn.Conv2d(8, 2, 1)})

    def forward(self, images):
        features = self.backbone(images)
        return {task: decoder(features) for task, decoder in self.decoders.items()}


@pytest.fixture
def tasks():
    return {
        "depth": make_task("depth", "depth", 1),
        "segmentation": make_task("segmentation", "segmentation", 2, classes=("dark", "bright")),
    }


@pytest.fixture
def make_model():
    def make(seed=0):
        torch.manual_seed(seed)
        return TinyModel()

    return make


@pytest.fixture
def make_loader():
    def make(batch_size=8, *, shuffle=True, flip=0.0, **options):
        return BatchLoader(
            Ramps(), batch_size, shuffle=shuffle, augmentation=Augmentation(flip=flip), **options
        )

    return make
