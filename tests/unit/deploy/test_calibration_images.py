import json

import numpy as np
import onnx
import pytest
from PIL import Image

from lomt.deploy.calibration_images import load_images, random_images
from lomt.deploy.onnx_graph import set_metadata
from lomt.errors import DataError
from tests.unit.deploy.networks import write_conv_network

MEAN, STD = [0.1, 0.2, 0.3], [0.5, 0.25, 1.0]


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "images"
    path.mkdir()
    for number in range(5):
        Image.new("RGB", (12, 8), (51 * number, 102, 255)).save(path / f"{number}.png")
    (path / "notes.txt").write_text("no image")
    return path


def network(tmp_path, metadata=None, *, is_open=False):
    path = write_conv_network(tmp_path / "conv.onnx", 2, size=(8, 12))
    loaded = onnx.load(path)
    if is_open:
        for value in (*loaded.graph.input, *loaded.graph.output):
            value.type.tensor_type.shape.dim[2].dim_param = "height"
            value.type.tensor_type.shape.dim[3].dim_param = "width"
    set_metadata(loaded, metadata or {})
    onnx.save(loaded, path)
    return path


@pytest.mark.parametrize(
    "metadata",
    [
        {"mean": json.dumps(MEAN), "std": json.dumps(STD)},
        {"lomt.preprocessing": json.dumps({"mean": MEAN, "std": STD, "is_baked": False})},
    ],
)
def test_images_are_prepared_as_the_file_says(metadata, folder, tmp_path):
    images = load_images(folder, network(tmp_path, metadata), count=2)
    assert len(images) == 2
    for image, number in zip(images, (0, 2), strict=True):  # evenly spaced
        expected = (np.array([0.2 * number, 0.4, 1.0]) - MEAN) / STD
        assert image.shape == (3, 8, 12)
        np.testing.assert_allclose(image[:, 4, 6], expected, rtol=1e-5)


def test_what_the_file_does_itself_is_not_done_twice(folder, tmp_path):
    baked = {"mean": MEAN, "std": STD, "is_baked": True, "channel_order": "BGR", "highest": 255}
    images = load_images(folder, network(tmp_path, {"lomt.preprocessing": json.dumps(baked)}), count=9)
    assert len(images) == 5
    np.testing.assert_allclose(images[1][:, 0, 0], [255, 102, 51], rtol=1e-5)


def test_an_archive_holds_images_that_are_ready(tmp_path):
    ready = np.random.default_rng(0).random((4, 3, 8, 12))
    np.savez(tmp_path / "images.npz", images=ready)
    images = load_images(tmp_path / "images.npz", network(tmp_path), count=3)
    assert [image.dtype for image in images] == [np.float32] * 3
    np.testing.assert_allclose(images[2], ready[2], rtol=1e-6)


def test_an_open_size_is_given(folder, tmp_path):
    path = network(tmp_path, {"mean": json.dumps(MEAN), "std": json.dumps(STD)}, is_open=True)
    assert load_images(folder, path, count=1, size=(4, 6))[0].shape == (3, 4, 6)
    assert random_images(path, count=2, size=(4, 6))[1].shape == (3, 4, 6)
    with pytest.raises(DataError, match=r"which leaves it open\. Give `--input-size HxW`"):
        load_images(folder, path, count=1)


def test_what_cannot_be_used_is_refused(folder, tmp_path):
    path = network(tmp_path)
    with pytest.raises(DataError, match="to say in its metadata how images are prepared"):
        load_images(folder, path, count=1)
    with pytest.raises(DataError, match="to be a folder of images or an npz file, but there is none"):
        load_images(tmp_path / "nowhere", path, count=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="to hold images .*, but it holds none"):
        load_images(tmp_path / "empty", path, count=1)
    prepared = network(tmp_path, {"mean": json.dumps(MEAN), "std": json.dumps(STD)})
    with pytest.raises(DataError, match="Expected images of 8x12 for .*, but got 4x4"):
        load_images(folder, prepared, count=1, size=(4, 4))
    (folder / "0.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"0\.png to be an image, but got"):
        load_images(folder, prepared, count=5)
    np.savez(tmp_path / "wrong.npz", images=np.zeros((2, 3, 4, 4)))
    with pytest.raises(
        DataError, match=r"finite images of shape \(images, 3, 8, 12\), but got \(2, 3, 4, 4\)"
    ):
        load_images(tmp_path / "wrong.npz", path, count=1)
    np.savez(tmp_path / "two.npz", a=np.zeros(1), b=np.zeros(1))
    with pytest.raises(DataError, match="to hold one array, the images, but got a, b"):
        load_images(tmp_path / "two.npz", path, count=1)
    (tmp_path / "bad.npz").write_text("bad")
    with pytest.raises(DataError, match="to be an npz file of numbers, but got"):
        load_images(tmp_path / "bad.npz", path, count=1)
