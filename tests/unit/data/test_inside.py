import os

import pytest

from lomt.data.inside import names_in, subfolders, within
from lomt.errors import DataError


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root" / "in").mkdir(parents=True)
    (tmp_path / "root" / "in" / "b.png").touch()
    (tmp_path / "root" / "in" / "a.png").touch()
    (tmp_path / "root" / "in" / ".hidden").touch()
    (tmp_path / "outside").mkdir()
    (tmp_path / "root2").mkdir()
    return tmp_path / "root"


def test_files_and_folders(root):
    assert names_in(root, "in") == ["a.png", "b.png"]
    assert subfolders(root) == ["in"]
    assert names_in(root, "none") == []


def test_links_that_stay_inside_are_followed(root):
    (root / "alias").symlink_to(root / "in")
    (root / "in" / "c.png").symlink_to("a.png")
    assert names_in(root, "alias") == ["a.png", "b.png", "c.png"]


def test_links_that_lead_out(root):
    (root / "in" / "c.png").symlink_to(root.parent / "outside")
    with pytest.raises(DataError, match=r"in/c.png to stay inside .*root, but it leads to .*outside"):
        subfolders(root, "in")
    (root / "out").symlink_to("../root2")  # a name that begins with the root's
    with pytest.raises(DataError, match="out to stay inside"):
        names_in(root, "out")


def test_the_root_itself_may_be_a_link(root):
    link = root.parent / "link"
    link.symlink_to(root)
    assert within(link, link / "in" / "a.png")
    assert names_in(link, "in") == ["a.png", "b.png"]


def test_names_that_are_not_utf8(root):
    try:
        (root / "in" / os.fsdecode(b"\xff.png")).touch()
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    with pytest.raises(DataError, match=r"Expected names in UTF-8 in .*in, but got b'\\xff.png'. Rename"):
        names_in(root, "in")
