"""Two overlapping handwritten digits an image, as in MultiMNIST but of scikit-learn's digits; a task for each."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lomt.data import Sample, TargetSpec

TASKS = ("first", "second")
SIDE, DIGIT = 24, 16
_SPLITS = {"train": (0, 1000, 4000), "validation": (1000, 1300, 600), "test": (1300, 1797, 2000)}
"""First and last digit of each split, and how many images are made of them: no digit is in two splits."""


@dataclass(frozen=True, eq=False)
class OverlaidDigits:
    """Images of two digits, one towards each corner.

    Args:
        split: Which digits.
        seed: Of the pairs and of how the digits of the set are shared out to splits.
    """

    split: str
    seed: int = 0
    name = "overlaid digits"

    def __post_init__(self) -> None:
        digits = load_digits()
        order = np.random.default_rng(self.seed).permutation(len(digits.target))
        start, stop, count = _SPLITS[self.split]
        own = order[start:stop]
        pairs = np.random.default_rng((self.seed, start)).choice(own, (count, 2))
        enlarged = np.kron(digits.images / 16 * 255, np.ones((2, 2)))
        canvas = np.zeros((count, 2, SIDE, SIDE))
        canvas[:, 0, :DIGIT, :DIGIT] = enlarged[pairs[:, 0]]
        canvas[:, 1, -DIGIT:, -DIGIT:] = enlarged[pairs[:, 1]]
        object.__setattr__(self, "images", canvas.max(1).astype(np.uint8))
        object.__setattr__(self, "labels", digits.target[pairs].astype(np.int64))

    @property
    def targets(self) -> Mapping[str, TargetSpec]:
        """The digit towards each corner."""
        classes = tuple(str(digit) for digit in range(10))
        return {task: TargetSpec(task, "classification", classes) for task in TASKS}

    @property
    def fingerprint(self) -> str:
        """Nothing is stored for it."""
        return f"{self.split}{self.seed}"

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, index: int) -> Sample:
        """Return an image, (24, 24, 3), and both digits."""
        image = np.repeat(self.images[index][:, :, None], 3, axis=2)
        return {"image": image} | {task: self.labels[index, place] for place, task in enumerate(TASKS)}


class DigitNetwork(nn.Module):
    """Two convolutions that the tasks share and two linear layers a task, as MultiMNIST is usually learned."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 10, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(10, 20, 5), nn.MaxPool2d(2), nn.ReLU()
        )
        self.decoders = nn.ModuleDict(
            {
                task: nn.Sequential(nn.Flatten(), nn.Linear(180, 50), nn.ReLU(), nn.Linear(50, 10))
                for task in TASKS
            }
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Predict ten logits a task."""
        features = self.backbone(images)
        return {task: decoder(features) for task, decoder in self.decoders.items()}


def new_network(tasks: tuple[str, ...], seed: int) -> DigitNetwork:
    """Return a network whose shared part and whose decoders begin alike whichever tasks it has."""
    torch.manual_seed(seed)
    whole = DigitNetwork()
    for task in set(TASKS) - set(tasks):
        del whole.decoders[task]
    return whole
