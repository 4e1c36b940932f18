import numpy as np
import pytest
from reference.published_sets import write_taskonomy

from lomt.data import IMAGE, open_dataset, open_published
from lomt.data.published.taskonomy import BUILDINGS
from lomt.errors import DataError

LAYOUTS = ["{domain}/taskonomy/{building}", "{domain}/{building}", "{building}/{domain}"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_value(tmp_path, layout):
    truth = write_taskonomy(tmp_path, layout)
    for split, building in (("train", "allensville"), ("validation", "darden"), ("test", "ihlen")):
        dataset = open_dataset("taskonomy", tmp_path, split, size=None)
        assert len(dataset) == 2
        for index, stem in enumerate(["point_3_view_0", "point_4_view_1"]):
            sample, wanted = dataset.sample(index), truth[building, stem]
            np.testing.assert_array_equal(sample[IMAGE], wanted["rgb"])
            np.testing.assert_array_equal(sample["segmentation"], wanted["segment_semantic"].astype(int) - 1)
            metres = np.where(wanted["depth_zbuffer"] == 65535, 0, wanted["depth_zbuffer"] / 512)
            np.testing.assert_allclose(sample["depth_zbuffer"][0], metres, rtol=1e-6)
            for name in ("keypoints2d", "edge_texture"):
                np.testing.assert_allclose(sample[name][0], wanted[name] / 65535, atol=1e-3)
            vectors = wanted["normal"] / 127.5 - 1
            length = np.linalg.norm(vectors, axis=2, keepdims=True)
            unit = np.where(length >= 0.5, vectors / length, 0)
            np.testing.assert_allclose(sample["normals"].transpose(1, 2, 0), unit, atol=2e-3)


def test_the_tiny_split_has_its_published_sizes():
    assert [len(names) for names in BUILDINGS.values()] == [25, 5, 5]
    assert len({name for names in BUILDINGS.values() for name in names}) == 35


def test_missing_file_of_one_domain(tmp_path, messages):
    write_taskonomy(tmp_path)
    path = tmp_path / "normal" / "taskonomy" / "allensville" / "point_4_view_1_domain_normal.png"
    path.unlink()
    (message,) = messages("taskonomy", tmp_path)
    assert f"{path} (sample rgb/taskonomy/allensville/point_4_view_1_domain_rgb.png, `normals`)" in message


def test_domains_that_are_not_there_are_no_targets(tmp_path):
    import shutil

    write_taskonomy(tmp_path)
    shutil.rmtree(tmp_path / "keypoints2d")
    assert "keypoints2d" not in open_published("taskonomy", tmp_path).targets


def test_other_buildings(tmp_path):
    write_taskonomy(tmp_path)
    for name in ("allensville", "darden", "ihlen"):
        (tmp_path / "rgb" / "taskonomy" / name).rename(tmp_path / "rgb" / "taskonomy" / f"{name}2")
    with pytest.raises(
        DataError, match="buildings of Taskonomy's tiny split .*, but got allensville2, darden2"
    ):
        open_published("taskonomy", tmp_path)


def test_labels_beyond_the_classes(tmp_path, messages):
    from PIL import Image

    write_taskonomy(tmp_path)
    path = tmp_path / "segment_semantic/taskonomy/allensville/point_3_view_0_domain_segmentsemantic.png"
    Image.new("L", (32, 24), 18).save(path)
    (message,) = messages("taskonomy", tmp_path)
    assert "Expected labels from 1 to 17 or 0 (`ignore_index`), but got 18 in 768 pixels" in message
