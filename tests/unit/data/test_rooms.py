"""The generated rooms: pure, exact, balanced, and what their labels say is what their geometry is."""

import itertools
import math
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from random import Random

import numpy as np
import pytest

from lomt.data.rooms import CLASSES, SCENES, RoomsDataset
from lomt.data.rooms.camera import Camera
from lomt.data.rooms.labels import boundaries, camera_normals
from lomt.data.rooms.layout import furnish
from lomt.data.rooms.raycast import blocked, cast
from lomt.data.rooms.scene import Box, Cylinder, Item, Material, Room, Sphere
from lomt.data.rooms.surfaces import Surfaces
from lomt.data.rooms.textures import PATTERNS, noise
from lomt.errors import UnknownNameError

SIZE = (48, 64)
GREY = Material("plain", ((0.5, 0.5, 0.5),) * 3)


def assert_same_sample(first, second):
    assert list(first) == list(second)
    for name in first:
        assert first[name].dtype == second[name].dtype
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def look(seed, scene="dining_room", size=SIZE):
    """A random room with all that is known about it: surfaces, camera, hits."""
    room, camera = furnish(Random(seed), scene, size)
    surfaces = Surfaces(room, camera.position)
    return surfaces, camera, cast(surfaces, camera)


def empty_room(*items, light=(2.0, -2.4, 2.5)):
    """A room of 4 x 2.5 x 5 metres."""
    return Room("storeroom", 4.0, 2.5, 5.0, (GREY,) * 4, GREY, GREY, items, 1, light, (1.0,) * 3, (0.3,) * 3)


def level_camera(size=(33, 33)):
    """Looks along z from the middle of the wall z = 0, with a focal length of half the image's width."""
    return Camera((2.0, -1.25, 0.0), 0.0, 0.0, 0.0, math.pi / 2, size)


# --- samples ---


def test_a_sample_follows_the_conventions():
    sample = RoomsDataset(8, size=SIZE).sample(3)
    shapes = {name: (array.shape, array.dtype.name) for name, array in sample.items()}
    assert shapes == {
        "image": ((48, 64, 3), "uint8"),
        "segmentation": ((48, 64), "int8"),
        "depth": ((1, 48, 64), "float32"),
        "normals": ((3, 48, 64), "float32"),
        "edges": ((1, 48, 64), "int8"),
        "scene": ((), "int64"),
    }
    assert all(array.flags.c_contiguous for array in sample.values())


def test_targets_tell_what_the_heads_need():
    targets = RoomsDataset(1).targets
    assert {name: (spec.kind, spec.out_channels) for name, spec in targets.items()} == {
        "segmentation": ("segmentation", len(CLASSES)),
        "depth": ("depth", 1),
        "normals": ("normals", 3),
        "edges": ("edges", 1),
        "scene": ("classification", len(SCENES)),
    }
    assert targets["segmentation"].classes == CLASSES
    assert targets["scene"].classes == SCENES


def test_the_same_index_gives_the_same_sample_in_any_order_and_object():
    dataset = RoomsDataset(20, size=SIZE, seed=7)
    first = [dataset.sample(index) for index in range(6)]
    again = RoomsDataset(20, size=SIZE, seed=7)
    for index in reversed(range(6)):
        assert_same_sample(first[index], again.sample(index))


def test_threads_and_pickled_copies_give_the_same_samples():
    dataset = RoomsDataset(6, size=SIZE, seed=2)
    copy = pickle.loads(pickle.dumps(dataset))
    with ThreadPoolExecutor(3) as pool:
        for index, sample in enumerate(pool.map(copy.sample, range(6))):
            assert_same_sample(sample, dataset.sample(index))


def test_samples_do_not_depend_on_count():
    assert_same_sample(RoomsDataset(3, size=SIZE).sample(2), RoomsDataset(300, size=SIZE).sample(2))


def test_other_seeds_and_indices_give_other_samples():
    samples = [RoomsDataset(4, size=SIZE, seed=seed).sample(index) for seed in (0, 1) for index in (0, 1)]
    for first, second in itertools.combinations(samples, 2):
        assert (first["depth"] != second["depth"]).mean() > 0.9
        assert (first["image"] != second["image"]).mean() > 0.5


def test_chosen_targets_are_those_of_the_full_sample_in_the_order_asked_for():
    full = RoomsDataset(4, size=SIZE).sample(1)
    part = RoomsDataset(4, size=SIZE, targets=["scene", "depth"])
    assert list(part.targets) == ["scene", "depth"]
    sample = part.sample(1)
    assert list(sample) == ["image", "scene", "depth"]
    assert_same_sample(sample, {name: full[name] for name in sample})


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (97, 45)], ids=str)
def test_any_size_renders(size):
    sample = RoomsDataset(4, size=size).sample(0)
    assert sample["image"].shape == (*size, 3)
    assert sample["normals"].shape == (3, *size)
    assert (sample["depth"] > 0).all()


def test_the_fingerprint_changes_with_every_setting():
    base = {"count": 10, "size": SIZE, "seed": 0, "targets": None}
    changes = [{}, {"count": 11}, {"size": (64, 48)}, {"seed": 1}, {"targets": ["depth"]}]
    prints = [RoomsDataset(**(base | change)).fingerprint for change in changes]
    assert len(set(prints)) == len(changes)
    assert RoomsDataset(**base).fingerprint == prints[0]


# --- what a set of samples contains ---


@pytest.fixture(scope="module")
def many():
    """Labels of 200 small samples."""
    dataset = RoomsDataset(200, size=SIZE, seed=11)
    return [dataset.sample(index) for index in range(200)]


def test_all_classes_occur_and_no_other_label(many):
    labels = np.stack([sample["segmentation"] for sample in many])
    share = np.bincount(labels.ravel(), minlength=len(CLASSES)) / labels.size
    assert len(share) == len(CLASSES)
    assert share.min() > 0.002
    in_samples = [(labels == index).any(axis=(1, 2)).mean() for index in range(len(CLASSES))]
    assert min(in_samples) > 0.15


def test_scenes_are_balanced_and_in_random_order(many):
    scenes = np.array([int(sample["scene"]) for sample in many]).reshape(-1, len(SCENES))
    assert (np.sort(scenes, axis=1) == np.arange(len(SCENES))).all()
    assert len({tuple(block) for block in scenes.tolist()}) > 15


def test_depth_and_light_stay_in_range(many):
    depth = np.stack([sample["depth"] for sample in many])
    assert depth.min() > 0.2 and depth.max() < 9.0
    brightness = np.array([sample["image"].mean() for sample in many])
    assert brightness.min() > 50 and brightness.max() < 225
    assert np.mean([sample["image"].std() for sample in many]) > 30


def test_the_scene_is_what_stands_in_the_room(many):
    bed, sofa = CLASSES.index("bed"), CLASSES.index("sofa")
    for sample in many:
        scene, labels = SCENES[int(sample["scene"])], sample["segmentation"]
        assert (bed in labels) == (scene == "bedroom")
        assert (sofa in labels) == (scene == "living_room")


@pytest.mark.parametrize(("scene", "class_name"), [("dining_room", "chair"), ("storeroom", "crate")])
def test_rooms_known_by_several_pieces_have_several(scene, class_name):
    for seed in range(20):
        room, _ = furnish(Random(seed), scene, SIZE)
        assert sum(item.class_name == class_name for item in room.items[: room.signature]) >= 2


def test_edges_are_a_small_share_of_the_default_size():
    dataset = RoomsDataset(24, seed=5)
    shares = [float(dataset.sample(index)["edges"].mean()) for index in range(24)]
    assert 0.03 < np.mean(shares) < 0.08
    assert min(shares) > 0.015


def test_colour_alone_does_not_tell_the_class(many):
    pixels = np.concatenate([sample["image"].reshape(-1, 3) for sample in many]) // 64
    labels = np.concatenate([sample["segmentation"].ravel() for sample in many]).astype(int)
    bins = pixels.astype(int) @ [16, 4, 1]
    table = np.zeros((64, len(CLASSES)))
    np.add.at(table, (bins, labels), 1)
    majority = np.bincount(labels).max() / len(labels)
    assert table.max(axis=1).sum() / len(labels) < majority + 0.08


# --- laws of the labels ---


@pytest.mark.parametrize("scene", SCENES)
def test_points_of_a_plane_surface_lie_in_one_plane_with_its_normal(scene):
    for seed in range(4):
        surfaces, camera, hits = look(seed, scene)
        normals = camera_normals(surfaces, camera, hits)
        points = camera.rays.astype(float) * hits.depth
        offsets = np.einsum("chw,chw->hw", points, normals.astype(float))
        curved = {row for row, part in _parts_by_row(surfaces) if not isinstance(part, Box)}
        checked = 0
        for row in np.unique(hits.surface):
            if row not in curved:
                here = hits.surface == row
                assert np.ptp(offsets[here]) < 2e-3
                checked += here.sum()
        assert checked > 0.5 * hits.depth.size


@pytest.mark.parametrize("scene", SCENES)
def test_normals_are_unit_vectors_on_the_side_of_the_camera(scene):
    for seed in range(4):
        surfaces, camera, hits = look(seed, scene)
        normals = camera_normals(surfaces, camera, hits)
        np.testing.assert_allclose(np.linalg.norm(normals, axis=0), 1.0, atol=1e-5)
        assert (np.einsum("chw,chw->hw", normals, camera.rays) < 1e-3).all()


def test_normals_have_the_documented_axes(many):
    floor, ceiling = CLASSES.index("floor"), CLASSES.index("ceiling")
    normals = np.stack([sample["normals"] for sample in many]).transpose(1, 0, 2, 3)
    labels = np.stack([sample["segmentation"] for sample in many])
    assert (normals[1][labels == floor] < 0).all()
    assert (normals[1][labels == ceiling] > 0).all()
    assert normals[2].mean() < -0.4
    left, right = normals[0][:, :, :4].mean(), normals[0][:, :, -4:].mean()
    assert left > 0.1 and right < -0.1


@pytest.mark.parametrize("scene", SCENES)
def test_hits_are_those_of_a_ray_by_ray_search(scene):
    for seed in range(3):
        surfaces, camera, hits = look(100 + seed, scene)
        rng = np.random.default_rng(seed)
        differing = 0
        for _ in range(60):
            row, column = rng.integers(0, SIZE[0]), rng.integers(0, SIZE[1])
            direction = camera.rotation @ camera.rays[:, row, column].astype(float)
            depth, surface = _search(surfaces, np.array(camera.position), direction)
            if surface == hits.surface[row, column]:
                assert hits.depth[row, column] == pytest.approx(depth, abs=2e-3)
            else:
                differing += 1
        assert differing <= 1  # a ray through a silhouette may fall on either side in single precision


def test_edges_are_where_the_next_instance_begins():
    surfaces, _, hits = look(3)
    instances = surfaces.instances[hits.surface]
    edges = boundaries(instances)
    for row, column in itertools.product(range(SIZE[0]), range(SIZE[1])):
        neighbours = [(row + 1, column), (row, column + 1)]
        expected = any(
            r < SIZE[0] and c < SIZE[1] and instances[r, c] != instances[row, column] for r, c in neighbours
        )
        assert edges[row, column] == expected


def test_classes_change_only_at_edges(many):
    for sample in many[:40]:
        labels, edges = sample["segmentation"], sample["edges"][0]
        assert edges[:, :-1][labels[:, :-1] != labels[:, 1:]].all()
        assert edges[:-1][labels[:-1] != labels[1:]].all()


def test_both_edge_values_of_a_hand_made_map():
    instances = np.array([[1, 1, 2], [1, 1, 2], [3, 3, 3]])
    np.testing.assert_array_equal(boundaries(instances), [[0, 1, 0], [1, 1, 1], [0, 0, 0]])


# --- hand-made rooms ---


def test_an_empty_room_has_the_depths_of_its_planes():
    camera = level_camera()
    surfaces = Surfaces(empty_room(), camera.position)
    hits = cast(surfaces, camera)
    assert hits.depth[16, 16] == pytest.approx(5.0)
    slope = camera.rays[1, -1, 16]
    assert hits.depth[-1, 16] == pytest.approx(1.25 / slope, rel=1e-5)  # the floor, 1.25 m below the camera
    assert [CLASSES[surfaces.classes[surfaces.instances[hits.surface[row, 16]]]] for row in (0, 16, 32)] == [
        "ceiling",
        "wall",
        "floor",
    ]
    normals = camera_normals(surfaces, camera, hits)
    np.testing.assert_allclose(normals[:, 16, 16], [0, 0, -1])
    np.testing.assert_allclose(normals[:, -1, 16], [0, -1, 0])
    np.testing.assert_allclose(normals[:, 16, 0], [1, 0, 0])


@pytest.mark.parametrize(
    ("part", "depth"),
    [
        (Box((-0.5, -2.0, -0.5), (0.5, 0.0, 0.5), GREY), 2.5),
        (Cylinder(0.0, 0.0, 0.75, -2.0, 0.0, GREY), 2.25),
        (Sphere((0.0, -1.25, 0.0), 0.6, GREY), 2.4),
    ],
    ids=["box", "cylinder", "sphere"],
)
def test_a_part_straight_ahead_is_as_far_as_its_nearest_point(part, depth):
    camera = level_camera()
    surfaces = Surfaces(empty_room(Item("bin", (2.0, 0.0, 3.0), 0.0, (part,))), camera.position)
    hits = cast(surfaces, camera)
    assert hits.depth[16, 16] == pytest.approx(depth, abs=1e-5)
    assert surfaces.instances[hits.surface[16, 16]] == 3
    np.testing.assert_allclose(camera_normals(surfaces, camera, hits)[:, 16, 16], [0, 0, -1], atol=1e-6)


def test_a_turned_box_shows_its_corner():
    camera = level_camera()
    box = Box((-0.5, -2.0, -0.5), (0.5, 0.0, 0.5), GREY)
    surfaces = Surfaces(empty_room(Item("crate", (2.0, 0.0, 3.0), math.pi / 4, (box,))), camera.position)
    hits = cast(surfaces, camera)
    assert hits.depth[16, 16] == pytest.approx(3.0 - math.sqrt(0.5), abs=1e-5)
    normals = camera_normals(surfaces, camera, hits)
    half = math.sqrt(0.5)
    np.testing.assert_allclose(normals[:, 16, 15], [-half, 0, -half], atol=1e-6)
    np.testing.assert_allclose(normals[:, 16, 17], [half, 0, -half], atol=1e-6)


def test_points_of_a_sphere_are_a_radius_from_its_centre():
    camera = level_camera((65, 65))
    item = Item("ball", (2.2, 0.0, 3.0), 1.0, (Sphere((0.1, -1.0, 0.2), 0.7, GREY),))
    surfaces = Surfaces(empty_room(item), camera.position)
    hits = cast(surfaces, camera)
    here = surfaces.instances[hits.surface] == 3
    assert here.sum() > 50
    points = camera.world_rays[:, here] * hits.depth[here] + np.array(camera.position)[:, None]
    x, z = item.to_world(0.1, 0.2)
    away = points - np.array([[x], [-1.0], [z]])
    np.testing.assert_allclose(np.linalg.norm(away, axis=0), 0.7, atol=1e-4)
    expected = camera.rotation.T @ (away / 0.7)
    np.testing.assert_allclose(camera_normals(surfaces, camera, hits)[:, here], expected, atol=1e-3)


def test_what_is_behind_the_camera_is_not_drawn():
    camera = Camera((2.0, -1.25, 3.0), 0.0, 0.0, 0.0, math.pi / 2, (33, 33))
    item = Item("ball", (2.0, 0.0, 1.0), 0.0, (Sphere((0.0, -1.25, 0.0), 0.5, GREY),))
    surfaces = Surfaces(empty_room(item), camera.position)
    assert (surfaces.instances[cast(surfaces, camera).surface] < 3).all()


def test_a_part_around_the_image_border_is_drawn():
    camera = level_camera()
    box = Box((-3.0, -0.4, -2.4), (3.0, 0.0, 1.0), GREY)
    surfaces = Surfaces(empty_room(Item("table", (2.0, 0.0, 2.5), 0.0, (box,))), camera.position)
    hits = cast(surfaces, camera)
    assert (surfaces.instances[hits.surface[-1]] == 3).all()
    assert hits.depth[-1, 16] == pytest.approx(0.85 / camera.rays[1, -1, 16], rel=1e-5)


def test_projection_inverts_the_rays():
    _, camera, hits = look(5)
    points = np.moveaxis(camera.world_rays * hits.depth, 0, -1) + np.array(camera.position)
    seen = camera.project(points.astype(float))
    rows, columns = np.indices(SIZE)
    np.testing.assert_allclose(seen[..., 0], columns + 0.5, atol=1e-3)
    np.testing.assert_allclose(seen[..., 1], rows + 0.5, atol=1e-3)
    np.testing.assert_allclose(seen[..., 2], hits.depth, rtol=1e-5)


def test_a_positive_pitch_looks_down_and_a_positive_yaw_right():
    camera = Camera((0.0, 0.0, 0.0), 0.3, 0.2, 0.0, 1.0, SIZE)
    x, y, z = camera.rotation @ [0.0, 0.0, 1.0]
    assert x > 0 and y > 0 and z > 0
    np.testing.assert_allclose(camera.rotation @ camera.rotation.T, np.eye(3), atol=1e-12)


@pytest.mark.parametrize("casts_shadow", [True, False])
def test_the_floor_below_a_table_is_in_its_shadow(casts_shadow):
    top = Box((-0.5, -0.8, -0.5), (0.5, -0.7, 0.5), GREY, casts_shadow=casts_shadow)
    room = empty_room(Item("table", (2.0, 0.0, 2.5), 0.0, (top,)))
    points = np.array([[[2.0, 3.9, 2.0]], [[0.0, 0.0, -0.81]], [[2.5, 2.5, 2.5]]], np.float32)
    shadow = blocked(Surfaces(room, (2.0, -1.25, 0.0)), points, (2.1, -2.4, 2.6))
    np.testing.assert_array_equal(shadow, [[casts_shadow, False, False]])


# --- textures ---


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_stay_between_0_and_1_and_fade_to_their_average(pattern):
    rng = np.random.default_rng(0)
    u, v = rng.random((2, 4000), np.float32) * 8
    for width in (0.001, 0.1, 1.0, 30.0):
        mixture, line = PATTERNS[pattern](u, v, np.full_like(u, width))
        for share in (mixture, line):
            assert share is None or (share.min() >= 0 and share.max() <= 1)
    if pattern in ("stripes", "checker"):
        np.testing.assert_allclose(mixture, 0.5, atol=1e-6)


def test_noise_repeats_has_mean_one_half_and_loses_detail():
    u, v = np.meshgrid(np.linspace(0, 1, 128, dtype=np.float32), np.linspace(0, 1, 128, dtype=np.float32))
    sharp, soft = noise(u, v, np.zeros_like(u)), noise(u, v, np.full_like(u, 0.1))
    np.testing.assert_array_equal(noise(u + 3, v + 5, np.zeros_like(u))[:-1, :-1], sharp[:-1, :-1])
    assert sharp.mean() == pytest.approx(0.5, abs=0.02)
    assert np.abs(np.diff(soft)).mean() < 0.5 * np.abs(np.diff(sharp)).mean()


# --- speed and mistakes ---


def test_rendering_is_fast_enough_to_feed_training():
    """A floor well below the benchmark's figure; processor time, so that a busy machine does not matter."""
    dataset = RoomsDataset(1000)
    dataset.sample(0)
    rates = []
    for start in (0, 15, 30):
        began = time.process_time()
        for index in range(start, start + 15):
            dataset.sample(index)
        rates.append(15 / max(time.process_time() - began, 1e-9))
    assert max(rates) > 30


def test_a_count_below_1_is_an_error():
    with pytest.raises(ValueError, match=r"Expected `count` of the rooms to be at least 1, but got 0\."):
        RoomsDataset(0)


def test_a_tiny_size_is_an_error():
    message = r"Expected `size` of the rooms to be at least 16 pixels each way, but got \(96, 8\)\."
    with pytest.raises(ValueError, match=message):
        RoomsDataset(1, size=(96, 8))


def test_a_negative_seed_is_an_error():
    with pytest.raises(ValueError, match=r"Expected `seed` of the rooms to be at least 0, but got -1\."):
        RoomsDataset(1, seed=-1)


def test_an_unknown_target_is_an_error():
    with pytest.raises(UnknownNameError, match=r"Unknown target of the rooms `depht`, did you mean `depth`"):
        RoomsDataset(1, targets=["depht"])


@pytest.mark.parametrize("index", [-1, 5])
def test_an_index_out_of_range_is_an_error(index):
    with pytest.raises(IndexError, match=rf"Expected `index` to be from 0 to 4, but got {index}\."):
        RoomsDataset(5).sample(index)


# --- the slow, obvious second implementation ---


def _parts_by_row(surfaces):
    """Every row of furniture with its part."""
    return [
        (6 + 3 * index + face, part) for index, (_, part) in enumerate(surfaces.parts) for face in range(3)
    ]


def _search(surfaces, origin, direction):
    """Nearest surface along one ray, in double precision, every part tried, without any bounding."""
    room = surfaces.room
    best = (math.inf, -1)
    for axis, (low, high) in enumerate([(0, room.width), (-room.height, 0), (0, room.length)]):
        wall = high if direction[axis] > 0 else low
        best = min(best, ((wall - origin[axis]) / direction[axis], 2 * axis + int(direction[axis] > 0)))
    for index, (owner, part) in enumerate(surfaces.parts):
        item = room.items[owner]
        cos, sin = math.cos(-item.yaw), math.sin(-item.yaw)
        back = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
        start, ray = back @ (origin - np.array(item.position)), back @ direction
        for t, face in _candidates(part, start, ray):
            if 0 < t < best[0]:
                best = (t, 6 + 3 * index + face)
    return best


def _candidates(part, start, ray):
    """All crossings of a line with the faces of one part."""
    if isinstance(part, Box):
        for axis in range(3):
            for plane in (part.low[axis], part.high[axis]):
                t = (plane - start[axis]) / ray[axis]
                point = start + t * ray
                others = [other for other in range(3) if other != axis]
                if all(part.low[other] <= point[other] <= part.high[other] for other in others):
                    yield t, axis
    elif isinstance(part, Sphere):
        yield from ((t, 0) for t in _roots(ray, start - np.array(part.centre), part.radius))
    else:
        flat = np.array([1.0, 0.0, 1.0])
        for t in _roots(ray * flat, (start - np.array([part.x, 0.0, part.z])) * flat, part.radius):
            if part.low <= start[1] + t * ray[1] <= part.high:
                yield t, 0
        for plane in (part.low, part.high):
            t = (plane - start[1]) / ray[1]
            point = start + t * ray
            if math.hypot(point[0] - part.x, point[2] - part.z) <= part.radius:
                yield t, 1


def _roots(ray, start, radius):
    roots = np.roots([ray @ ray, 2 * ray @ start, start @ start - radius**2])
    return [float(root.real) for root in roots if abs(root.imag) < 1e-12]
