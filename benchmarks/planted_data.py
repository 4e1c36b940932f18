"""Images, and heat maps that were planted at layers, as a dataset."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lomt.data import TargetSpec


@dataclass(frozen=True)
class Planted:
    """Images, and heat maps planted at layers.

    Args:
        images: (count, 3, height, width), bytes.
        heat_maps: By task, (count, heat maps, height, width), 0 to 1.
        layers: Where each task's heat maps were planted.
    """

    images: Tensor
    heat_maps: Mapping[str, Tensor]
    layers: Mapping[str, str]
    name: str = "planted"
    fingerprint: str = "planted"

    @property
    def targets(self) -> dict[str, TargetSpec]:
        """What can be learned."""
        return {
            task: TargetSpec(task, "keypoints", channels=maps.shape[1])
            for task, maps in self.heat_maps.items()
        }

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, index: int) -> dict[str, Any]:
        """Return one image with its heat maps."""
        maps = {task: own[index].numpy() for task, own in self.heat_maps.items()}
        return {"image": self.images[index].permute(1, 2, 0).numpy(), **maps}
