import numpy as np
import pytest

from lomt.data import Subset, find_damage, open_folder, require_whole, without_damage
from lomt.errors import DataError


@pytest.fixture
def damaged(tiny_folder):
    for name in ("images/1.png", "depth/3.png"):
        path = tiny_folder / name
        path.write_bytes(path.read_bytes()[:40])
    return open_folder(tiny_folder, "train", size=(6, 8))


def test_damage_names_file_and_row_and_whole_samples_are_visited(damaged):
    seen = []
    first, second = find_damage(damaged, visit=lambda index, sample: seen.append((index, set(sample))))
    assert (first.index, second.index) == (1, 2)
    assert "images/1.png (samples.csv line 3, column `image`)" in first.message
    assert "depth/3.png (samples.csv line 5, column `depth`)" in second.message
    assert [index for index, _ in seen] == [0, 3]


def test_a_run_does_not_start(damaged):
    with pytest.raises(DataError, match="Expected whole samples in tiny, but 2 of 4 are damaged:") as caught:
        require_whole(damaged, find_damage(damaged))
    assert str(caught.value).endswith("Mend them, or leave them out with `data.damaged: skip`.")
    require_whole(damaged, ())


def test_whole_samples_remain(damaged):
    kept = without_damage(damaged, find_damage(damaged))
    assert isinstance(kept, Subset)
    assert (len(kept), kept.name, kept.fingerprint) == (2, damaged.name, damaged.fingerprint)
    np.testing.assert_array_equal(kept.sample(1)["image"], damaged.sample(3)["image"])
    with pytest.raises(IndexError):
        kept.sample(2)
    assert without_damage(damaged, ()) is damaged


def test_nothing_remains(tiny_folder):
    for path in (tiny_folder / "images").iterdir():
        path.write_bytes(b"")
    dataset = open_folder(tiny_folder, "train", size=(6, 8))
    with pytest.raises(DataError, match="4 of 4 are damaged"):
        without_damage(dataset, find_damage(dataset))


def test_only_damage_is_passed_over(damaged):
    def fail(index, sample):
        raise KeyError("ours")

    with pytest.raises(KeyError):
        find_damage(damaged, visit=fail)
