"""`rooms`, the dataset that comes with the library: furnished rooms, ray-cast with NumPy, exactly labelled.

`layout` draws a room of `furniture` and `materials` and a `camera`; `raycast` finds the surface behind each
pixel; `labels` and `shading` turn that into targets and an image.
"""

from lomt.data.rooms.dataset import RoomsDataset
from lomt.data.rooms.scene import CLASSES, SCENES

__all__ = ["CLASSES", "SCENES", "RoomsDataset"]
