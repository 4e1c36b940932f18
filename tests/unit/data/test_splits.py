import pytest

from lomt.data.description import Description
from lomt.data.splits import split_rows
from lomt.data.table import read_table
from lomt.errors import DataError

TARGETS = {"d": {"kind": "depth", "column": "d"}}


@pytest.fixture
def rows_of(tmp_path):
    def rows(cells, split, fraction=0.0, seed=0, **description):
        path = tmp_path / "samples.csv"
        path.write_text("\n".join(["split,d", *(f"{cell},x" for cell in cells)]), encoding="utf-8")
        whole = Description.model_validate({"name": "toy", "targets": TARGETS, **description})
        return split_rows(read_table(path, {"split": "k", "d": "k"}), whole, split, fraction, seed).tolist()

    return rows


def test_mapping(rows_of):
    splits = {"train": "tr", "test": "te", "validation": "va"}
    cells = ["tr", "te", "other", "va", "tr"]
    assert rows_of(cells, "train", splits=splits) == [0, 4]
    assert rows_of(cells, "test", splits=splits) == [1]
    assert rows_of(cells, "validation", splits=splits) == [3]
    # a validation split of its own is used, and train left whole
    assert rows_of(cells, "train", 0.5, splits=splits) == [0, 4]


@pytest.mark.parametrize("splits", [{"train": "tr", "test": "te"}, None], ids=["named", "all-train"])
def test_hold_out_is_a_seeded_partition(rows_of, splits):
    cells = ["tr"] * 40
    train = rows_of(cells, "train", 0.25, 3, splits=splits)
    validation = rows_of(cells, "validation", 0.25, 3, splits=splits)
    assert len(validation) == 10
    assert sorted(train + validation) == list(range(40))
    assert validation == rows_of(cells, "validation", 0.25, 3, splits=splits)
    assert validation != rows_of(cells, "validation", 0.25, 4, splits=splits)


@pytest.mark.parametrize(("fraction", "count"), [(0.001, 1), (0.999, 9)])
def test_hold_out_leaves_neither_empty(rows_of, fraction, count):
    assert len(rows_of(["x"] * 10, "validation", fraction)) == count


@pytest.mark.parametrize(
    ("cells", "split", "fraction", "splits", "message"),
    [
        (["a"], "test", 0.0, {"train": "a"}, "Expected a `test` split in `splits` of toy, but got `train`"),
        (["a"], "train", 0.0, {"train": "b"}, "with `b` in column `split`, but got `a`"),
        (["a"], "test", 0.0, None, "Expected `test` in `splits` of toy, but there are no `splits`"),
        ([], "train", 0.0, None, "Expected samples in .*samples.csv, but it has no rows"),
        (
            ["a"] * 3,
            "validation",
            0.0,
            {"train": "a"},
            "Expected `validation_fraction` above 0 to hold one out",
        ),
        (["a"], "validation", 0.5, {"train": "a"}, "Expected at least 2 train samples to hold one out"),
    ],
)
def test_empty_split(rows_of, cells, split, fraction, splits, message):
    with pytest.raises(DataError, match=message):
        rows_of(cells, split, fraction, splits=splits)
