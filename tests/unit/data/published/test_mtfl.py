import numpy as np
import pytest
from reference.published_sets import write_mtfl

from lomt.data import open_dataset, open_published
from lomt.errors import DataError


def test_every_value(tmp_path):
    truth = write_mtfl(tmp_path)
    for split, name, count in (("train", "training", 3), ("test", "testing", 2)):
        dataset = open_dataset("mtfl", tmp_path, split, size=(10, 5))
        for index in range(count):
            sample, wanted = dataset.sample(index), truth[name, index]
            points = sample["landmarks"].reshape(5, 2) * [20, 40] - 0.5  # stored images are 40 high, 20 wide
            np.testing.assert_allclose(points, np.stack([wanted["x"], wanted["y"]], 1), atol=1e-4)
            answers = [sample[key].item() for key in ("gender", "smile", "glasses", "pose")]
            assert answers == (wanted["answers"] - 1).tolist()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.jpg 1 2 3", "Expected 15 cells in line 2 of .*training.txt, but got 4"),
        ("a.jpg " + "1 " * 13 + "6", "Expected pose from 1 to 5 in line 2 of .*, but got 6"),
        ("a.jpg x " + "1 " * 13, "Expected numbers in line 2 of"),
        ("a.jpg nan " + "1 " * 13, "Expected finite numbers in line 2 of"),
        ("..\\a.jpg " + "1 " * 14, "Expected a path inside the dataset's folder in line 2"),
        ("C:\\a.jpg " + "1 " * 14, "Expected a path inside the dataset's folder in line 2"),
    ],
)
def test_damaged_lines(tmp_path, line, message):
    write_mtfl(tmp_path)
    lines = (tmp_path / "training.txt").read_text().splitlines()
    lines[1] = line
    (tmp_path / "training.txt").write_text("\n".join(lines))
    with pytest.raises(DataError, match=message):
        open_published("mtfl", tmp_path)


def test_missing_image(tmp_path, messages):
    write_mtfl(tmp_path)
    (tmp_path / "lfw_5590" / "face_1.jpg").unlink()
    (message,) = messages("mtfl", tmp_path)
    assert "lfw_5590/face_1.jpg (sample lfw_5590/face_1.jpg, `image`): Expected this file" in message
