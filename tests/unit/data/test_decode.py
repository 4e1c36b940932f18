import numpy as np
import pytest
from PIL import Image

from lomt.data import TargetSpec
from lomt.data.columns import (
    DepthColumn,
    EdgesColumn,
    KeypointsColumn,
    NormalsColumn,
    SegmentationColumn,
)
from lomt.data.decode import decode_image, decode_target, nearest, without_label
from tests.reference.resampling import nearest_resize

SIZE = (6, 8)


@pytest.fixture
def decoded(tmp_path):
    """Store an array, decode it as described."""

    def decode(array, target, size=SIZE, suffix=".npy", image_size=(12, 16)):
        path = tmp_path / f"file{suffix}"
        if suffix == ".npy":
            np.save(path, array)
        else:
            Image.fromarray(array).save(path)
        return decode_target(path, target, size, image_size)

    return decode


def segmentation(**options):
    return SegmentationColumn(kind="segmentation", column="c", classes=["a", "b", "c"], **options)


@pytest.mark.parametrize("stored", [(12, 16), (9, 12), (3, 4), (7, 9), (6, 8)])
def test_nearest_is_the_pixel_under_the_centre(stored):
    plane = np.random.default_rng(0).random(stored)
    np.testing.assert_array_equal(nearest(plane, SIZE), nearest_resize(plane, SIZE))


def test_image_is_antialiased(tmp_path):
    stripes = np.zeros((12, 16, 3), np.uint8)
    stripes[:, ::2] = 200
    Image.fromarray(stripes).save(tmp_path / "a.png")
    image, stored = decode_image(tmp_path / "a.png", SIZE)
    assert stored == (12, 16)
    assert image.shape == (*SIZE, 3)
    assert image.dtype == np.uint8
    assert np.abs(image[:, 1:-1].astype(int) - 100).max() <= 30  # nearest would be 0 or 200


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_image_modes_become_rgb(tmp_path, mode):
    grey = np.repeat(np.array([[[0], [255]]], np.uint8), 3, axis=2)
    Image.fromarray(grey).convert(mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode_image(tmp_path / "a.png", (1, 2))[0], grey)


def test_image_npy(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(decode_image(tmp_path / "a.npy", SIZE)[0], array)
    np.save(tmp_path / "b.npy", array / 255)
    with pytest.raises(
        ValueError, match=r"Expected uint8 of shape \(height, width, 3\), but got float64 of \(6, 8, 3\)"
    ):
        decode_image(tmp_path / "b.npy", SIZE)


def test_image_of_16_bits(tmp_path):
    Image.fromarray(np.zeros(SIZE, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="Expected an image of 8 bits a channel, but got Pillow's mode I"):
        decode_image(tmp_path / "a.png", SIZE)


@pytest.mark.parametrize("suffix", [".png", ".npy"])
def test_segmentation(decoded, suffix):
    stored = np.random.default_rng(0).choice(np.array([0, 1, 2, 255], np.uint8), (12, 16))
    labels = decoded(stored, segmentation(ignore_index=255), suffix=suffix)
    expected = nearest_resize(stored, SIZE).astype(int)
    expected[expected == 255] = -1
    assert labels.dtype == np.int8
    np.testing.assert_array_equal(labels, expected)


def test_segmentation_of_a_palette_reads_indices(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8))
    image.putpalette([9, 9, 9, 50, 60, 70, 1, 2, 3])
    image.save(tmp_path / "a.png")
    labels = decode_target(tmp_path / "a.png", segmentation(), (2, 2), (2, 2))
    assert labels.tolist() == [[0, 1], [2, 1]]


def test_segmentation_with_first_index(decoded):
    labels = decoded(
        np.array([[0, 1], [3, 2]]), segmentation(first_index=1, ignore_index=0), (2, 2), image_size=(2, 2)
    )
    assert labels.tolist() == [[-1, 0], [2, 1]]


def test_segmentation_of_many_classes(decoded):
    target = SegmentationColumn(kind="segmentation", column="c", classes=[str(i) for i in range(300)])
    labels = decoded(np.array([[299, 128]]), target, (1, 2), image_size=(1, 2))
    assert labels.tolist() == [[299, 128]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Expected labels from 0 to 2, but got 7 in 2 pixels"),
        (
            {"ignore_index": 255},
            r"Expected labels from 0 to 2 or 255 \(`ignore_index`\), but got 7 in 2 pixels",
        ),
        ({"first_index": 1}, "Expected labels from 1 to 3, but got 0 in 1 pixels"),
    ],
)
def test_label_out_of_range(decoded, options, message):
    array = np.array([[7, 1], [2, 7]]) if "first_index" not in options else np.array([[0, 1], [2, 3]])
    with pytest.raises(ValueError, match=message):
        decoded(array, segmentation(**options), (2, 2), image_size=(2, 2))


def test_labels_must_be_integers(decoded):
    with pytest.raises(ValueError, match="Expected integer labels, but got dtype float64"):
        decoded(np.zeros((12, 16)), segmentation())


def test_depth_of_16_bit_png(decoded):
    stored = np.random.default_rng(0).integers(0, 60000, (12, 16)).astype(np.uint16)
    stored[::2] = 0
    depth = decoded(stored, DepthColumn(kind="depth", column="c", scale=0.001), suffix=".png")
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth[0], nearest_resize(stored, SIZE) * 0.001, rtol=1e-6)


def test_depth_without_value_is_zero(decoded):
    stored = np.array([[1.5, np.nan, np.inf, -2.0, 0.0, 9.0]], np.float64)
    target = DepthColumn(kind="depth", column="c", scale=2.0, invalid=9.0)
    assert decoded(stored, target, (1, 6), image_size=(1, 6)).tolist() == [[[3, 0, 0, 0, 0, 0]]]


@pytest.mark.parametrize("suffix", [".png", ".npy"])
def test_normals_are_unit_vectors(decoded, suffix):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(12, 16, 3))
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    stored = np.rint((vectors + 1) * 127.5).astype(np.uint8) if suffix == ".png" else vectors * 3
    normals = decoded(stored, NormalsColumn(kind="normals", column="c"), suffix=suffix)
    expected = np.stack([nearest_resize(vectors[:, :, c], SIZE) for c in range(3)])
    np.testing.assert_allclose(np.linalg.norm(normals.astype(float), axis=0), 1, atol=1e-3)
    np.testing.assert_allclose(normals, expected, atol=8e-3 if suffix == ".png" else 1e-3)


def test_normals_without_value_are_zero(decoded):
    stored = np.array([[[127, 128, 128], [0, 0, 0], [255, 127, 127]]], np.uint8)
    target = NormalsColumn(kind="normals", column="c", invalid=[0.0, 0.0, 0.0])
    normals = decoded(stored, target, (1, 3), image_size=(1, 3))
    np.testing.assert_allclose(normals[:, 0].T, [[0, 0, 0], [0, 0, 0], [1, 0, 0]], atol=5e-3)
    floats = np.array([[[0, 0, 0], [np.nan, 0, 0], [0, 2, 0]]])
    normals = decoded(floats, NormalsColumn(kind="normals", column="c"), (1, 3), image_size=(1, 3))
    assert normals[:, 0].T.tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_normals_of_16_bits(decoded):
    with pytest.raises(ValueError, match="Expected 8-bit colours or floats, but got dtype uint16"):
        decoded(np.zeros((12, 16, 3), np.uint16), NormalsColumn(kind="normals", column="c"))


def test_edges(decoded):
    target = EdgesColumn(kind="edges", column="c", ignore_index=255)
    edges = decoded(np.array([[0, 1, 255]], np.uint8), target, (1, 3), image_size=(1, 3))
    assert edges.tolist() == [[[0, 1, -1]]]
    target = EdgesColumn(kind="edges", column="c", threshold=0.2)
    edges = decoded(np.array([[0.1, 0.3, np.nan]]), target, (1, 3), image_size=(1, 3))
    assert edges.tolist() == [[[0, 1, -1]]]


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (np.array([[0, 51, 255]], np.uint8), [0, 0.2, 1]),
        (np.array([[0, 13107, 65535]], np.uint16), [0, 0.2, 1]),
        (np.array([[-5, 0.2, np.nan]], np.float32), [-1, 0.2, -1]),
    ],
    ids=["uint8", "uint16", "float"],
)
def test_heat_maps_scale(decoded, stored, expected):
    heat = decoded(stored, KeypointsColumn(kind="keypoints", column="c"), (1, 3), image_size=(1, 3))
    np.testing.assert_allclose(heat[0, 0], expected, atol=5e-4)


@pytest.mark.parametrize("axis", [0, 2], ids=["channels-first", "channels-last"])
def test_heat_maps_of_several_channels_are_smoothed(decoded, axis):
    heat = np.zeros((12, 16, 2), np.float32)
    heat[4:6, 4:6, 1] = 1
    heat[:2, :2, 0] = -1
    stored = np.moveaxis(heat, 2, axis)
    result = decoded(stored, KeypointsColumn(kind="keypoints", column="c", channels=2))
    assert result.shape == (2, *SIZE)
    assert result[0, 0, 0] == -1
    assert result[1].argmax() == 2 * SIZE[1] + 2
    assert result[1].sum() == pytest.approx(1, abs=0.01)  # a quarter of four pixels


def test_heat_out_of_range(decoded):
    with pytest.raises(ValueError, match="Expected heat maps from 0 to 1 with `scale` 1, but got 3"):
        decoded(np.full((12, 16), 3.0), KeypointsColumn(kind="keypoints", column="c"))


@pytest.mark.parametrize(
    ("array", "target", "message"),
    [
        (
            np.zeros((12, 16, 4), np.uint8),
            NormalsColumn(kind="normals", column="c"),
            r"\(height, width, 3\), but got",
        ),
        (
            np.zeros((12, 16, 3), np.uint8),
            segmentation(),
            r"Expected shape \(height, width\), but got \(12, 16, 3\)",
        ),
        (np.array([["a"]]), segmentation(), "Expected numbers, but got dtype <U1"),
        (
            np.zeros((16, 12), np.uint8),
            segmentation(),
            "same ratio of height to width as the image's, but got 16x12 beside an image of 12x16",
        ),
    ],
    ids=["channels", "colours", "text", "ratio"],
)
def test_wrong_shape(decoded, array, target, message):
    with pytest.raises(ValueError, match=message):
        decoded(array, target)


@pytest.mark.parametrize(
    ("kind", "value", "shape"),
    [
        ("segmentation", -1, (6, 8)),
        ("depth", 0, (1, 6, 8)),
        ("normals", 0, (3, 6, 8)),
        ("edges", -1, (1, 6, 8)),
        ("keypoints", -1, (2, 6, 8)),
    ],
)
def test_without_label(kind, value, shape):
    array = without_label(TargetSpec("t", kind, classes=("a",), channels=2), SIZE)
    assert array.shape == shape
    assert (array == value).all()
