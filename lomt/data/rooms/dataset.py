"""The dataset: rooms by number."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from random import Random
from types import MappingProxyType

import numpy as np

from lomt.data.rooms.camera import Camera
from lomt.data.rooms.labels import boundaries, camera_normals
from lomt.data.rooms.layout import furnish
from lomt.data.rooms.raycast import Hits, cast
from lomt.data.rooms.scene import CLASSES, SCENES
from lomt.data.rooms.shading import photograph
from lomt.data.rooms.surfaces import Surfaces
from lomt.data.sample import Sample, TargetSpec
from lomt.errors import UnknownNameError

__all__ = ["RoomsDataset"]

_VERSION = 1
"""To be raised with every change that makes other images from the same seed."""

_TARGETS = (
    TargetSpec("segmentation", "segmentation", CLASSES),
    TargetSpec("depth", "depth"),
    TargetSpec("normals", "normals"),
    TargetSpec("edges", "edges"),
    TargetSpec("scene", "classification", SCENES),
)
_SMALLEST = 16
_SEEN_SHARE = 0.03
_TRIES = 6


class RoomsDataset:
    """Procedural indoor images with exact labels; nothing is stored or downloaded.

    Every sample is a furnished, lit room seen by a pinhole camera, both drawn from ``(seed, index)`` alone:
    the same numbers give the same sample on any thread, process and run. Take different seeds for different
    splits.

    Targets:

    - ``segmentation``: the classes of `CLASSES`. Colours say little: most classes share shapes or materials
      with others (window, picture and door are plates on a wall; a ball on the floor and a lamp's shade are
      spheres) and differ in place, size and texture.
    - ``depth``: metres along the optical axis.
    - ``normals``: unit vectors in the camera's frame, x right, y **down**, z **forward**, on the side of the
      camera: a floor has y < 0, a ceiling y > 0, and what faces the camera z < 0. These are NYU-v2's axes.
    - ``edges``: 1 where the right or lower neighbour belongs to another object instance. All walls are one
      instance, as are floor, ceiling and each piece of furniture.
    - ``scene``: the kind of room, decided by what stands in it: a bed, a sofa, a table with chairs around it,
      or several crates. In every four samples (0 to 3, 4 to 7, ...) each kind occurs once, in random order.

    Args:
        count: Number of samples.
        size: Height and width in pixels, at least 16 each.
        seed: Seed of the whole set, 0 or more.
        targets: Names of the targets to give, in this order; all five if None.

    Raises:
        ValueError: If ``count``, ``size`` or ``seed`` is out of range.
        UnknownNameError: If a target does not exist.

    Example:
        >>> dataset = RoomsDataset(100, size=(48, 64), targets=["depth", "scene"])
        >>> {name: (array.shape, array.dtype.name) for name, array in dataset.sample(7).items()}
        {'image': ((48, 64, 3), 'uint8'), 'depth': ((1, 48, 64), 'float32'), 'scene': ((), 'int64')}
    """

    name = "rooms"

    def __init__(
        self,
        count: int,
        *,
        size: tuple[int, int] = (96, 128),
        seed: int = 0,
        targets: Sequence[str] | None = None,
    ) -> None:
        if count < 1:
            raise ValueError(f"Expected `count` of the rooms to be at least 1, but got {count}.")
        if min(size) < _SMALLEST:
            raise ValueError(
                f"Expected `size` of the rooms to be at least {_SMALLEST} pixels each way, but got {size}."
            )
        if seed < 0:
            raise ValueError(f"Expected `seed` of the rooms to be at least 0, but got {seed}.")
        self._count = count
        self._size = (int(size[0]), int(size[1]))
        self._seed = seed
        self._targets = _select(targets)

    @property
    def targets(self) -> Mapping[str, TargetSpec]:
        """The targets of every sample by name, in order."""
        return MappingProxyType(self._targets)

    @property
    def fingerprint(self) -> str:
        """Hexadecimal hash of all settings and of the generator's version."""
        settings = [self.name, _VERSION, self._count, self._size, self._seed, list(self._targets)]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._count

    def sample(self, index: int) -> Sample:
        """Render one sample.

        Args:
            index: From 0 to ``len(self) - 1``.

        Returns:
            ``"image"`` and the targets in the conventions of `lomt.data.sample`.

        Raises:
            IndexError: If ``index`` is out of range.
        """
        if not 0 <= index < self._count:
            raise IndexError(f"Expected `index` to be from 0 to {self._count - 1}, but got {index}.")
        scene = _scene(self._seed, index)
        surfaces, camera, hits = _look(Random(f"{self._seed}/{index}"), scene, self._size)
        normals = camera_normals(surfaces, camera, hits)
        sample: Sample = {
            "image": photograph(surfaces, camera, hits, normals, np.random.default_rng((self._seed, index)))
        }
        instances = surfaces.instances[hits.surface]
        makers = {
            "segmentation": lambda: surfaces.classes.astype(np.int8)[instances],
            "depth": lambda: hits.depth[None],
            "normals": lambda: normals,
            "edges": lambda: boundaries(instances)[None],
            "scene": lambda: np.array(SCENES.index(scene), np.int64),
        }
        return sample | {name: makers[name]() for name in self._targets}


def _select(names: Sequence[str] | None) -> dict[str, TargetSpec]:
    known = {target.name: target for target in _TARGETS}
    for name in names or ():
        if name not in known:
            raise UnknownNameError("target of the rooms", name, known)
    return {name: known[name] for name in (known if names is None else names)}


def _scene(seed: int, index: int) -> str:
    """Draw the kind of room without replacement within every four samples."""
    block, place = divmod(index, len(SCENES))
    order = list(SCENES)
    Random(f"{seed}/scenes/{block}").shuffle(order)
    return order[place]


def _look(rng: Random, scene: str, size: tuple[int, int]) -> tuple[Surfaces, Camera, Hits]:
    """Draw rooms until what makes it such a room is in view."""
    for _ in range(_TRIES):
        room, camera = furnish(rng, scene, size)
        surfaces = Surfaces(room, camera.position)
        hits = cast(surfaces, camera)
        instances = surfaces.instances[hits.surface]
        seen = np.count_nonzero((instances >= 3) & (instances < 3 + room.signature))
        if seen >= _SEEN_SHARE * instances.size:
            break
    return surfaces, camera, hits
