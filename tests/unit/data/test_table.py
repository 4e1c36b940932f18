import numpy as np
import pytest

from lomt.data.table import Findings, check_files, class_indices, label_vectors, numbers, read_table
from lomt.errors import DataError


@pytest.fixture
def table_of(tmp_path):
    def read(text, *columns):
        path = tmp_path / "samples.csv"
        path.write_text(text, encoding="utf-8")
        return read_table(path, {column: f"key of {column}" for column in columns})

    return read


def findings_of(table):
    return Findings(table.path)


def test_columns_and_line_numbers(table_of):
    table = table_of('\ufeffa, b,c\n0,v,v\n1, "x\ny",z\n\n2,ü,w\n', "b", "c")
    assert set(table.columns) == {"b", "c"}
    assert [cell.decode() for cell in table.columns["b"].tolist()] == ["v", "x\ny", "ü"]
    assert table.lines.tolist() == [2, 4, 6]


def test_many_rows(table_of):
    count = 10_000  # several chunks
    table = table_of("a,b\n" + "".join(f"{i},{i * i}\n" for i in range(count)), "b", "a")
    assert table.columns["b"].tolist() == [str(i * i).encode() for i in range(count)]
    assert table.lines.tolist() == list(range(2, count + 2))


def test_missing_table(tmp_path):
    with pytest.raises(DataError, match=r"Expected a table of samples at .*none\.csv, but there is none"):
        read_table(tmp_path / "none.csv", {})


def test_missing_column_names_key_and_nearest(table_of):
    with pytest.raises(DataError, match="line 1: Unknown column `depht`, did you mean `depth`") as caught:
        table_of("id,depth\n", "depht", "other")
    assert "It is asked for by `key of depht` of the description." in str(caught.value)
    assert "has 2 problems" in str(caught.value)


def test_column_twice(table_of):
    with pytest.raises(
        DataError, match="line 1, column `a`: Expected a column's name once, but got it twice"
    ):
        table_of("a,a\n1,2\n", "a")


def test_short_row(table_of):
    with pytest.raises(DataError, match="line 3: Expected 2 cells as in the header, but got 1"):
        table_of("a,b\n1,2\n3\n", "a")


def test_not_utf8(tmp_path):
    (tmp_path / "samples.csv").write_bytes(b"a\n\xff\xff\n")
    with pytest.raises(DataError, match="to be CSV in UTF-8, but got near line 1: 'utf-8' codec"):
        read_table(tmp_path / "samples.csv", {"a": "key"})


def test_not_csv(table_of):
    with pytest.raises(DataError, match="to be CSV in UTF-8, but got near line 3: unexpected end"):
        table_of('a,b\n1,2\n3,"4', "a")


def test_files_in_root_and_below(table_of, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "ä.png").touch()
    (tmp_path / "top.png").touch()
    table = table_of("a\nimages/ä.png\n./images/ä.png\ntop.png\n''\n".replace("''", '""'), "a")
    findings = findings_of(table)
    check_files(table, "a", tmp_path, findings, is_required=False)
    findings.raise_any()
    check_files(table, "a", tmp_path, findings, is_required=True)
    with pytest.raises(
        DataError, match="line 5, column `a`: Expected the path of a file, but the cell is empty"
    ):
        findings.raise_any()


def test_missing_files_first_ten_shown_and_all_counted(table_of, tmp_path):
    (tmp_path / "b.png").touch()
    table = table_of("a\nb.png\n" + "".join(f"gone/{i}.png\n" for i in range(12)), "a")
    findings = findings_of(table)
    check_files(table, "a", tmp_path, findings, is_required=True)
    with pytest.raises(DataError, match="has 12 problems; the first 10 are:") as caught:
        findings.raise_any()
    lines = str(caught.value).splitlines()
    assert len(lines) == 11
    assert lines[1] == f"  line 3, column `a`: Expected a file `gone/0.png` in {tmp_path}, but there is none."


@pytest.mark.parametrize(
    "path", ["../out.png", "/out.png", "in/../../out.png", "..\\out.png", "C:/out.png", ".."]
)
def test_paths_must_not_leave_the_root(table_of, tmp_path, path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "out.png").touch()
    (root / "out.png").touch()
    table = table_of(f"a\n{path}\n", "a")
    findings = findings_of(table)
    check_files(table, "a", root, findings, is_required=True)
    with pytest.raises(DataError, match=r"line 2, column `a`: Expected a path inside .*root, but got"):
        findings.raise_any()


def test_every_folder_is_listed_once(table_of, tmp_path, monkeypatch):
    import os

    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        for i in range(5):
            (tmp_path / name / f"{i}.png").touch()
    table = table_of("a\n" + "".join(f"{'xy'[i % 2]}/{i // 2}.png\n" for i in range(10)), "a")
    calls = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: calls.append(path) or scandir(path))
    findings = findings_of(table)
    check_files(table, "a", tmp_path, findings, is_required=True)
    assert findings.count == 0
    assert len(calls) == 2


def test_links_must_not_leave_the_root(table_of, tmp_path):
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    (tmp_path / "out.png").touch()
    (root / "in" / "link.png").symlink_to(tmp_path / "out.png")
    (root / "out").symlink_to(tmp_path)
    (root / "in" / "fine.png").symlink_to("real.png")
    (root / "in" / "real.png").touch()
    table = table_of("a\nin/link.png\nout/out.png\nin/fine.png\n", "a")
    findings = findings_of(table)
    check_files(table, "a", root, findings, is_required=True)
    assert findings.count == 2
    assert "Expected a path inside" in findings.shown[0] and "in/link.png" in findings.shown[0]
    assert "out/out.png" in findings.shown[1]


def test_classes(table_of):
    table = table_of("a,b\nkitchen,\noffice,\n,\n", "a")
    findings = findings_of(table)
    assert class_indices(table, "a", ["office", "kitchen"], findings).tolist() == [1, 0, -1]
    assert class_indices(table, "a", ["office"], findings).tolist() == [-2, 0, -1]
    with pytest.raises(DataError, match="line 2, column `a`: Unknown class `kitchen`"):
        findings.raise_any()


def test_labels_by_name(table_of):
    table = table_of('a\nred| old\nnew\n""\n', "a")
    findings = findings_of(table)
    vectors = label_vectors(table, ["a"], ["old", "new", "red"], findings)
    assert vectors.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    label_vectors(table, ["a"], ["old", "red"], findings)
    with pytest.raises(DataError, match="line 3, column `a`: Unknown class `new`"):
        findings.raise_any()


def test_labels_by_column(table_of):
    table = table_of("a,b\n1,0\n,1\n", "a", "b")
    findings = findings_of(table)
    assert label_vectors(table, ["b", "a"], None, findings).tolist() == [[0, 1], [1, -1]]
    table = table_of("a\nyes\n", "a")
    label_vectors(table, ["a"], None, findings)
    with pytest.raises(DataError, match="line 2, column `a`: Expected 0, 1 or an empty cell, but got `yes`"):
        findings.raise_any()


def test_numbers(table_of):
    table = table_of("a,b\n1.5,-2e3\n,0\n", "a", "b")
    findings = findings_of(table)
    values = numbers(table, ["a", "b"], findings)
    np.testing.assert_array_equal(values, np.array([[1.5, -2000], [np.nan, 0]], np.float32))


@pytest.mark.parametrize("cell", ["1;5", "inf"])
def test_not_a_number(table_of, cell):
    table = table_of(f"a\n{cell}\n", "a")
    findings = findings_of(table)
    numbers(table, ["a"], findings)
    with pytest.raises(DataError, match=f"Expected a finite number or an empty cell, but got `{cell}`"):
        findings.raise_any()
