import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lomt.data import plain_csv
from lomt.data.plain_csv import plain_columns


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def cells(columns):
    return [[cell.decode() for cell in column.tolist()] for column in columns]


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_cells_of_any_length(tmp_path, end):
    path = write(tmp_path / "a.csv", f"a,b,c\n1,,long one\nä,2,x{end}")
    assert cells(plain_columns(path, 3, [2, 0])) == [["long one", "x"], ["1", "ä"]]


def test_blocks_are_cut_at_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(plain_csv, "_BLOCK", 7)
    rows = [[str(i), "x" * (i % 23)] for i in range(60)]
    path = write(tmp_path / "a.csv", "a,b\n" + "".join(f"{a},{b}\n" for a, b in rows))
    assert cells(plain_columns(path, 2, [0, 1])) == [list(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize(
    "rows",
    [
        '1,"2"\n',
        "1\n",
        "1,2,3\n",
        "1,2\n\n3,4\n",
        "1, 2\n",
        " 1,2\n3,4\n",
        "1\r,2\n",
        b"\xff,2\n",
        "1,2,3\n4\n",
        "1,\x002\n",
    ],
)
def test_what_the_csv_module_has_to_judge(tmp_path, rows):
    rows = rows if isinstance(rows, bytes) else rows.encode()
    assert plain_columns(write(tmp_path / "a.csv", b"a,b\n" + rows), 2, [0]) is None


def test_blank_lines_of_a_single_column(tmp_path):
    assert plain_columns(write(tmp_path / "a.csv", "a\n1\n\n2\n"), 1, [0]) is None


def test_header_alone(tmp_path):
    assert cells(plain_columns(write(tmp_path / "a.csv", "a,b\n"), 2, [0])) == [[]]


@given(st.text(alphabet='a1é,\n\r" ', max_size=40))
def test_never_other_than_the_csv_module(tmp_path_factory, text):
    path = write(tmp_path_factory.mktemp("csv") / "a.csv", "h,g\n" + text)
    found = plain_columns(path, 2, [0, 1])
    if found is None:
        return
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file, strict=True, skipinitialspace=True))[1:]
    np.testing.assert_array_equal(cells(found), list(zip(*rows, strict=True)) or [[], []])
