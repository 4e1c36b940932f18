"""Plain folders of images."""

import numpy as np
import pytest
from PIL import Image

from lomt.data import (
    IMAGE,
    IMAGES,
    BatchLoader,
    Dataset,
    check_dataset,
    find_damage,
    identify,
    open_cached,
    open_dataset,
    open_images,
    splits_of,
    targets_of,
    write_map,
)
from lomt.errors import DataError, UnknownNameError

SIZE = (6, 8)
NAMES = ["a/1.JPG", "a/b/2.png", "c.jpeg", "d.webp", "e.bmp"]


def save(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((12, 16, 3), value, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Five images in three folders, with things beside them that are none."""
    root = tmp_path / "photos"
    for number, name in enumerate(NAMES):
        save(root / name, 40 * number)
    save(root / ".hidden.png")
    save(root / ".thumbs" / "x.png")
    (root / "notes.txt").write_text("no image")
    (root / "empty").mkdir()
    return root


@pytest.fixture
def many(tmp_path):
    root = tmp_path / "many"
    for number in range(20):
        save(root / f"{number:02}.png", number)
    return root


def test_images_are_found_at_any_depth_and_in_order(folder):
    found = open_images(folder, "train", size=SIZE)
    assert list(found.paths) == NAMES
    assert (len(found), found.name, dict(found.targets)) == (5, "photos", {})
    assert isinstance(found, Dataset)
    assert found.sample(4)[IMAGE].shape == (*SIZE, 3)
    assert (found.sample(4)[IMAGE] == 160).all()
    assert open_images(folder, "train", size=None).sample(1)[IMAGE].shape == (12, 16, 3)
    with pytest.raises(IndexError, match="Expected `index` to be from 0 to 4, but got 5"):
        found.sample(5)


def test_batches_hold_images_alone(folder):
    (batch,) = BatchLoader(open_images(folder, "train", size=SIZE), 5, shuffle=False).epoch(0)
    assert list(batch) == [IMAGE]
    assert batch[IMAGE].shape == (5, 3, *SIZE)


def rows(root, split, validation=0.25, test=0.2, seed=3):
    return open_images(
        root, split, size=SIZE, validation_fraction=validation, test_fraction=test, seed=seed
    ).paths


def test_splits_are_a_seeded_partition(many):
    train, validation, test = (rows(many, split) for split in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (12, 4, 4)
    assert sorted([*train, *validation, *test]) == [f"{number:02}.png" for number in range(20)]
    assert test == rows(many, "test") == rows(many, "test", validation=0.5)
    assert test != rows(many, "test", seed=4)
    assert len(rows(many, "train", validation=0, test=0)) == 20


def test_all_splits_know_the_folder_by_one_fingerprint(many):
    prints = {
        open_images(many, split, size=SIZE, validation_fraction=0.2, test_fraction=0.2).fingerprint
        for split in ("train", "validation", "test")
    }
    assert len(prints) == 1
    save(many / "20.png")
    (more,) = {open_images(many, "train", size=SIZE).fingerprint}
    assert more not in prints


@pytest.mark.parametrize(
    ("images", "split", "validation", "test", "message"),
    [
        (1, "train", 0.0, 0.1, "Expected images for split `test`, but of 1 `test_fraction` 0.1 and"),
        (
            2,
            "train",
            0.1,
            0.1,
            "for split `validation`, but of 2 .* leave none. Add images, or hold out less",
        ),
        (3, "test", 0.1, 0.9, "for split `validation`, but of 3 `test_fraction` 0.9"),
        (3, "test", 0.0, 0.0, "for split `test`, .* leave none. Give `test_fraction` above 0"),
    ],
)
def test_an_empty_split(tmp_path, images, split, validation, test, message):
    for number in range(images):
        save(tmp_path / f"{number}.png")
    with pytest.raises(DataError, match=message):
        rows(tmp_path, split, validation, test)


def test_no_folder_and_no_images(tmp_path):
    with pytest.raises(DataError, match="none to be a folder of images, but there is none"):
        open_images(tmp_path / "none", "train", size=SIZE)
    (tmp_path / "notes.txt").touch()
    save(tmp_path / ".hidden.png")
    with pytest.raises(DataError, match=r"Expected images \(bmp, jpeg, jpg, png, webp\) in .* found none"):
        open_images(tmp_path, "train", size=SIZE)


@pytest.mark.parametrize("name", ["validation_fraction", "test_fraction"])
def test_fractions_out_of_range(folder, name):
    with pytest.raises(ValueError, match=f"Expected `{name}` to be from 0 to below 1, but got 1.0"):
        open_images(folder, "train", size=SIZE, **{name: 1.0})


def test_a_damaged_image_is_named(folder):
    (folder / "c.jpeg").write_bytes(b"no image")
    (damage,) = find_damage(open_images(folder, "train", size=SIZE))
    assert damage.index == 2
    assert damage.message.startswith(f"{folder / 'c.jpeg'}: Cannot be read: ")


def test_links_are_followed_inside_the_folder_once(folder, tmp_path):
    (folder / "a" / "again").symlink_to(folder, target_is_directory=True)
    (folder / "z.png").symlink_to(folder / "a" / "b" / "2.png")
    assert list(open_images(folder, "train", size=SIZE).paths) == [*NAMES, "z.png"]
    save(tmp_path / "elsewhere.png")
    (folder / "y.png").symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(DataError, match=r"Expected .*y\.png to stay inside .*photos, but it leads to"):
        open_images(folder, "train", size=SIZE)


def test_a_folder_of_images_is_a_layout(folder, many, tmp_path):
    assert identify(folder) == IMAGES
    assert splits_of(IMAGES, folder) == ("train",)
    assert targets_of(IMAGES, folder) == {}
    with pytest.raises(UnknownNameError, match="Unknown target of the images in .* `depth`"):
        open_dataset(IMAGES, folder, "train", size=SIZE, targets=["depth"])
    found = check_dataset(folder)
    assert (found.layout, found.damaged, found.targets) == (IMAGES, 0, {})
    assert found.splits["train"].samples == 5
    (folder / "dataset.yaml").touch()
    assert identify(folder) == "folder"


def test_splits_of_the_cache_are_those_of_the_files(many, tmp_path):
    write_map(open_dataset(IMAGES, many, "train", size=SIZE), tmp_path / "cache" / "train")
    for split in ("train", "validation", "test"):
        options = {"size": SIZE, "validation_fraction": 0.2, "test_fraction": 0.3, "seed": 1}
        files = open_dataset(IMAGES, many, split, **options)
        cached = open_cached(tmp_path / "cache", IMAGES, many, split, **options)
        assert (len(files), files.fingerprint) == (len(cached), cached.fingerprint)
        for index in range(len(files)):
            np.testing.assert_array_equal(files.sample(index)[IMAGE], cached.sample(index)[IMAGE])
