import errno
import os
import stat

import pytest

from lomt.atomic_file import write_atomically, write_text_atomically


def test_a_new_file_is_whole_in_a_new_folder_and_all_may_read_it(tmp_path):
    path = tmp_path / "runs" / "metrics.json"

    assert write_atomically(path, lambda partial: partial.write_text("new")) == len("new")

    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_text_is_stored_in_utf8_whatever_the_locale(tmp_path):
    write_text_atomically(tmp_path / "report.txt", "λ = 1e-3\n")

    assert (tmp_path / "report.txt").read_bytes() == "λ = 1e-3\n".encode()


def test_the_content_is_on_the_disk_before_the_old_file_goes(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    path.write_text("old")
    flushed = []

    def fsync(descriptor):
        flushed.append((os.pread(descriptor, 10, 0), path.read_text()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(path, lambda partial: partial.write_text("new"))

    assert flushed == [(b"new", "old")]
    assert path.read_text() == "new"


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("place", ["write", "fsync"])
@pytest.mark.parametrize("failure", [full_disk, interrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(failure, place, tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    path.write_text("old")

    def write(partial):
        partial.write_text("ne")
        if place == "write":
            failure()

    if place == "fsync":
        monkeypatch.setattr(os, "fsync", failure)
    with pytest.raises((OSError, KeyboardInterrupt)) as caught:
        write_atomically(path, write)

    assert caught.type is (OSError if failure is full_disk else KeyboardInterrupt)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
