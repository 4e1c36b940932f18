import numpy as np
from PIL import Image

from lomt.data import contact_sheet, open_folder, save_sheet
from lomt.data.contact_sheet import DRAWINGS, class_colours, draw_target
from lomt.data.sample import DENSE_KINDS, TargetSpec


def test_every_dense_kind_has_a_drawing():
    assert set(DRAWINGS) == DENSE_KINDS


def test_images_stand_where_they_belong(tiny_folder):
    dataset = open_folder(tiny_folder, "train", size=(48, 64))
    sheet = np.asarray(contact_sheet(dataset, [2, 0]))
    columns = 1 + 5 + 1  # image, dense targets, answers
    assert sheet.shape[1] == 4 + columns * 68
    np.testing.assert_array_equal(sheet[16 : 16 + 48, 4:68], dataset.sample(2)["image"])
    np.testing.assert_array_equal(sheet[68 : 68 + 48, 4:68], dataset.sample(0)["image"])
    names = list(dataset.files)
    for column, name in enumerate(names, 1):
        left = 4 + column * 68
        drawn = draw_target(dataset.sample(2)[name], dataset.targets[name])
        np.testing.assert_array_equal(sheet[16 : 16 + 48, left : left + 64], drawn)
    answers = sheet[16 : 16 + 48, 4 + 6 * 68 :]
    assert (answers < 128).any()  # something is written


def test_colours_tell_values_apart():
    labels = TargetSpec("s", "segmentation", classes=("a", "b"))
    drawn = draw_target(np.array([[-1, 0, 1]], np.int8), labels)
    assert len({tuple(pixel) for pixel in drawn[0].tolist()}) == 3
    assert len({tuple(colour) for colour in class_colours(40).tolist()}) == 40
    depth = draw_target(np.array([[[0, 1, 2, 3]]], np.float32), TargetSpec("d", "depth"))[0]
    assert depth[0].tolist() == [70, 70, 70]
    assert (np.diff(depth[1:].sum(axis=1, dtype=int)) > 0).all()  # nearer is darker
    normals = draw_target(np.array([[[0]], [[0]], [[-1]]], np.float16), TargetSpec("n", "normals"))
    assert normals[0, 0].tolist() == [128, 128, 0]
    edges = draw_target(np.array([[[-1, 0, 1]]], np.int8), TargetSpec("e", "edges"))[0]
    assert edges.tolist() == [[70] * 3, [0] * 3, [255] * 3]


def test_nothing_labelled_is_drawn_too():
    drawn = draw_target(np.zeros((1, 2, 2), np.float32), TargetSpec("d", "depth"))
    assert (drawn == 70).all()


def test_the_file(tiny_folder, tmp_path):
    sheet = contact_sheet(open_folder(tiny_folder, "train", size=(6, 8)), [0])
    save_sheet(sheet, tmp_path / "sheets" / "a.png")
    with Image.open(tmp_path / "sheets" / "a.png") as stored:
        np.testing.assert_array_equal(np.asarray(stored), np.asarray(sheet))
