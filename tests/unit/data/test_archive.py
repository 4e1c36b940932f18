import io
import tarfile
import zipfile

import pytest

from lomt.data.archive import find_escapes, is_archive
from lomt.errors import DataError


def zip_of(path, names, links=()):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
        for name, target in links:
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o120777 << 16
            archive.writestr(info, target)
    return path


def tar_of(path, names, links=()):
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return path


@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_members_that_stay_inside(make, tmp_path):
    path = make(tmp_path / "a", ["a/b.png", "a/../c.png"], [("a/link", "../c.png")])
    assert is_archive(path)
    assert find_escapes(path) == ()


@pytest.mark.parametrize("make", [zip_of, tar_of])
@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/a", "C:\\a", "..\\a"])
def test_members_that_leave(make, name, tmp_path):
    (found,) = find_escapes(make(tmp_path / "a", ["good", name]))
    assert found.endswith("would be written outside the folder")


@pytest.mark.parametrize("make", [zip_of, tar_of])
@pytest.mark.parametrize("target", ["../../a", "/etc/passwd"])
def test_links_that_leave(make, target, tmp_path):
    (found,) = find_escapes(make(tmp_path / "a", [], [("in/link", target)]))
    assert found == f"`in/link` is a link to `{target}`, outside the folder"


def test_hard_links_that_leave(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("in/link")
        info.type, info.linkname = tarfile.LNKTYPE, "../a"
        archive.addfile(info)
    assert len(find_escapes(tmp_path / "a.tar")) == 1


def test_damaged(tmp_path):
    path = tar_of(tmp_path / "a.tgz", [f"{i}" for i in range(500)])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="to be a whole archive, but got"):
        find_escapes(path)
    (tmp_path / "text").write_text("x")
    assert not is_archive(tmp_path / "text")
    assert not is_archive(tmp_path)
