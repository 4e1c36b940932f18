import pytest

from lomt.data.description import read_description
from lomt.errors import DataError


def problems(tmp_path, text):
    path = tmp_path / "dataset.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_description(path)
    return str(caught.value)


def test_reads_every_kind(tiny_folder):
    description = read_description(tiny_folder / "dataset.yaml")
    kinds = [target.kind for target in description.targets.values()]
    assert kinds == [
        "segmentation",
        "depth",
        "normals",
        "edges",
        "keypoints",
        "classification",
        "multilabel",
        "multilabel",
        "regression",
    ]
    assert description.targets["flags"].spec("flags").classes == ("is_big", "is_far")
    assert description.targets["pose"].spec("pose").out_channels == 2
    assert description.targets["heat"].spec("heat").out_channels == 2


def test_missing_file(tmp_path):
    with pytest.raises(
        DataError, match=r"Expected a dataset description at .*dataset\.yaml, but there is none"
    ):
        read_description(tmp_path / "dataset.yaml")


def test_not_yaml(tmp_path):
    assert "to be YAML in UTF-8, but got" in problems(tmp_path, "a: [")


def test_not_a_mapping(tmp_path):
    assert "to be a mapping of keys to values, but got list" in problems(tmp_path, "- a")


def test_all_mistakes_at_once(tmp_path):
    text = problems(
        tmp_path,
        """
nam: x
samples: ../outside.csv
splits: {train: 1}
image: {colum: a}
targets:
  a: {kind: depht, column: a}
  b: {kind: depth, column: b, scal: 1, scale: -1}
  c: {column: c}
  d: {kind: multilabel}
  e: {kind: segmentation, column: c, classes: [a, a]}
  f: {kind: multilabel, column: f}
  g: {kind: multilabel, columns: [a, b], classes: [a]}
  h: {kind: regression, columns: [a], column: b}
  i: {kind: normals, column: a, invalid: [0, 0]}
""",
    )
    assert "dataset.yaml has 15 problems:" in text
    for expected in (
        "`name`: Expected this key, but it is missing.",
        "`nam`: Unknown key `nam`, did you mean `name`?",
        "`samples`: Expected a path inside the dataset's folder, but got '../outside.csv'.",
        "`splits.train`: Input should be a valid string, but got 1.",
        "`image.colum`: Unknown key `colum`, did you mean `column`?",
        "`targets.a.kind`: Unknown target kind `depht`, did you mean `depth`?",
        "`targets.b.scal`: Unknown key `scal`, did you mean `scale`?",
        "`targets.b.scale`: Input should be greater than 0, but got -1.",
        "`targets.c.kind`: Expected one of segmentation, depth,",
        "`targets.d`: Expected either `column` or `columns`.",
        "`targets.e.classes`: Expected names that are all different, but got ['a', 'a'].",
        "`targets.f`: Expected `classes` beside `column`.",
        "`targets.g`: Expected as many `classes` as `columns`.",
        "`targets.h`: Expected either `column` or `columns`.",
        "`targets.i.invalid`: List should have at least 3 items",
    ):
        assert expected in text


def test_no_conversion(tmp_path):
    text = problems(tmp_path, "name: x\ntargets: {d: {kind: depth, column: d, scale: '2'}}")
    assert "`targets.d.scale`: Input should be a valid number, but got '2'." in text


def test_target_named_image(tmp_path):
    text = problems(tmp_path, "name: x\ntargets: {image: {kind: depth, column: d}}")
    assert "the whole`: Expected no target to be named `image`, which is the input." in text


def test_unknown_split_name(tmp_path):
    text = problems(tmp_path, "name: x\nsplits: {trian: a}\ntargets: {d: {kind: depth, column: d}}")
    assert "`splits.trian`: Input should be 'train', 'validation' or 'test', but got 'trian'." in text
