"""Where furniture goes: on free floor, against walls, on walls, around a table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeAlias

from lomt.data.rooms.camera import Camera
from lomt.data.rooms.furniture import FURNITURE, Piece
from lomt.data.rooms.scene import Item

__all__ = ["Placement"]

_Area: TypeAlias = tuple[float, float, float, float]

_BACK, _LEFT, _RIGHT = 0.0, -math.pi / 2, math.pi / 2
_WALLS = (_BACK, _BACK, _LEFT, _RIGHT)
_AGAINST_WALL = frozenset({"bed", "sofa", "cupboard"})


@dataclass
class Placement:
    """Puts pieces where nothing else is and where the camera is not.

    Args:
        rng: Source of all choices.
        width: Extent of the room along x in metres.
        height: From floor to ceiling.
        length: Extent along z.
        camera: Whose view counts.
        items: What has been placed.
        taken: Areas of the floor in use: least and greatest x, least and greatest z.
        hung: Parts of walls in use: the yaw of what hangs there, start and end along the wall.
    """

    rng: Random
    width: float
    height: float
    length: float
    camera: Camera
    items: list[Item] = field(default_factory=list)
    taken: list[_Area] = field(default_factory=list)
    hung: list[tuple[float, float, float]] = field(default_factory=list)

    def stand(self, piece: Piece, *, is_seen: bool = False) -> bool:
        """Place a piece on the floor, against a wall if it belongs there.

        Args:
            piece: What to place.
            is_seen: Whether it has to stand well within the camera's angle of view.

        Returns:
            Whether there was room.
        """
        for _ in range(30 if is_seen else 8):
            x, z, yaw = self._beside_wall(piece) if piece.class_name in _AGAINST_WALL else self._anywhere()
            area = _area(piece, x, z, yaw)
            if not self._is_visible(x, z, 0.75 if is_seen else 1.1):
                continue
            if piece.class_name != "rug":
                if not self._is_free(area):
                    continue
                self.taken.append(area)
            self.items.append(Item(piece.class_name, (x, 0.0, z), yaw, piece.parts))
            self._stack(piece, x, z, yaw)
            return True
        return False

    def dine(self, table: Piece, chairs: Sequence[Piece]) -> None:
        """Place a table in the middle of the room with chairs around it, as many as there are seats for."""
        rng = self.rng
        x = min(max(rng.uniform(0.35, 0.65) * self.width, 1.2), self.width - 1.2)
        z = min(rng.uniform(0.5, 0.68) * self.length, self.length - 1.2)
        item = Item("table", (x, 0.0, z), rng.choice((_BACK, _RIGHT)) + rng.gauss(0.0, 0.1), table.parts)
        self.items.append(item)
        seats = [
            (along * table.width / 4, side * (table.depth / 2 + 0.12), 0.0 if side > 0 else math.pi)
            for side in (1, -1)
            for along in ((-1, 1) if table.width > 1.25 else (0,))
        ]
        seats += [(side * (table.width / 2 + 0.12), 0.0, side * math.pi / 2) for side in (1, -1)]
        rng.shuffle(seats)
        for piece, (across, forward, turn) in zip(chairs, seats, strict=False):
            seat_x, seat_z = item.to_world(across, forward)
            yaw = item.yaw + turn + rng.gauss(0.0, 0.15)
            self.items.append(Item("chair", (seat_x, 0.0, seat_z), yaw, piece.parts))
        reach = 0.5 * max(table.width, table.depth) + 0.4
        self.taken.append((x - reach, x + reach, z - reach, z + reach))

    def hang(self, piece: Piece) -> bool:
        """Fix a piece to a wall where no other hangs.

        Args:
            piece: What to hang; a door stands on the floor.

        Returns:
            Whether there was room.
        """
        rng = self.rng
        for _ in range(6):
            yaw = rng.choice(_WALLS)
            span = self.width if yaw == _BACK else self.length
            along = rng.uniform(0.5 * piece.width + 0.1, span - 0.5 * piece.width - 0.1)
            area = (yaw, along - 0.5 * piece.width, along + 0.5 * piece.width)
            if any(other[0] == yaw and area[1] < other[2] and other[1] < area[2] for other in self.hung):
                continue
            self.hung.append(area)
            bottom = 0.0 if piece.class_name == "door" else rng.uniform(0.9, 1.3)
            bottom = max(0.0, min(bottom, self.height - piece.height - 0.1))
            x, z = {_BACK: (along, self.length), _LEFT: (0.0, along), _RIGHT: (self.width, along)}[yaw]
            self.items.append(Item(piece.class_name, (x, -bottom, z), yaw, piece.parts))
            return True
        return False

    def _stack(self, piece: Piece, x: float, z: float, yaw: float) -> None:
        """Sometimes put a second crate on a crate."""
        if piece.class_name != "crate" or self.rng.random() > 0.4:
            return
        upper = FURNITURE["crate"](self.rng)
        if upper.width < piece.width + 0.1 and upper.depth < piece.depth + 0.1:
            turn = yaw + self.rng.gauss(0.0, 0.1)
            self.items.append(Item("crate", (x, -piece.height, z), turn, upper.parts))

    def _beside_wall(self, piece: Piece) -> tuple[float, float, float]:
        yaw = self.rng.choice(_WALLS)
        gap = 0.5 * piece.depth + 0.02
        span = self.width if yaw == _BACK else self.length
        along = self.rng.uniform(0.5 * piece.width, max(0.5 * piece.width, span - 0.5 * piece.width))
        if yaw == _BACK:
            return along, self.length - gap, yaw
        return (gap if yaw == _LEFT else self.width - gap), along, yaw

    def _anywhere(self) -> tuple[float, float, float]:
        rng = self.rng
        x, z = rng.uniform(0.3, self.width - 0.3), rng.uniform(1.0, self.length - 0.3)
        return x, z, rng.uniform(-math.pi, math.pi)

    def _is_visible(self, x: float, z: float, share: float) -> bool:
        """Whether a point of the floor is within ``share`` of the horizontal angle of view."""
        angle = math.atan2(x - self.camera.position[0], z - self.camera.position[2]) - self.camera.yaw
        return abs(angle) < 0.5 * share * self.camera.field_of_view

    def _is_free(self, area: _Area) -> bool:
        left, right, near, far = area
        inside = left > -0.01 and right < self.width + 0.01 and far < self.length + 0.01
        x, _, z = self.camera.position
        is_near_camera = left - 0.5 < x < right + 0.5 and near - 0.7 < z < far + 0.7
        return (
            inside
            and not is_near_camera
            and all(left >= b or a >= right or near >= d or c >= far for a, b, c, d in self.taken)
        )


def _area(piece: Piece, x: float, z: float, yaw: float) -> _Area:
    """Bounds of the turned footprint along the world's x and z."""
    cos, sin = abs(math.cos(yaw)), abs(math.sin(yaw))
    across = 0.5 * (cos * piece.width + sin * piece.depth)
    along = 0.5 * (sin * piece.width + cos * piece.depth)
    return x - across, x + across, z - along, z + along
