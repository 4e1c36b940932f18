import json
import zipfile

import pytest
from PIL import Image
from reference.published_sets import write_mtan
from typer.testing import CliRunner

from lomt.cli import app
from lomt.data import open_map


@pytest.fixture
def mtan(tmp_path):
    write_mtan(tmp_path / "mtan")
    return tmp_path / "mtan"


def call(*arguments):
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def test_check_a_whole_dataset(mtan):
    result = call("check", mtan)
    assert result.exit_code == 0, result.output
    assert "layout nyuv2_mtan" in result.output
    assert "train: 3 samples, 0 damaged; images 3 of 24x32" in result.output
    assert "segmentation" in result.output and "mean" in result.output


def test_check_tells_damage_by_its_exit_status(mtan):
    (mtan / "train" / "depth" / "1.npy").write_bytes(b"")
    result = call("check", mtan)
    assert result.exit_code == 1
    assert "train: 3 samples, 1 damaged" in result.output
    assert "damaged: " in result.output and "depth/1.npy" in result.output
    result = call("check", mtan, "--json", "--target", "depth")
    assert result.exit_code == 1
    assert len(json.loads(result.output)["splits"]["train"]["damaged"]) == 1


def test_what_is_no_dataset(tmp_path):
    result = call("check", tmp_path)
    assert result.exit_code == 2
    assert "error: Expected" in result.output and "Traceback" not in result.output


@pytest.mark.parametrize(
    ("name", "message"), [("../x", "Do not unpack it."), ("x", "unpack it and give that folder")]
)
def test_archives(tmp_path, name, message):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, b"")
    result = call("check", tmp_path / "a.zip")
    assert result.exit_code == 2
    assert message in result.output


def test_preview(mtan, tmp_path):
    result = call(
        "preview", mtan, "--out", tmp_path / "a.png", "--count", 9, "--size", "24x32", "--split", "test"
    )
    assert result.exit_code == 0, result.output
    assert "2 of 2 samples of nyuv2_mtan (test) drawn" in result.output
    with Image.open(tmp_path / "a.png") as image:
        assert image.width == 4 + 5 * 36
    assert "Unknown split `tset`, did you mean `test`" in call("preview", mtan, "--split", "tset").output


def test_cache_is_written_once(mtan, tmp_path):
    out = tmp_path / "cache"
    result = call("cache", mtan, "--size", "12x16", "--out", out)
    assert result.exit_code == 0, result.output
    assert f"Set data.cache_dir to {out}" in result.output
    assert len(open_map(out / "train")) == 3
    again = call("cache", mtan, "--size", "12x16", "--out", out)
    assert "is up to date" in again.output and again.exit_code == 0
    other = call("cache", mtan, "--size", "6x8", "--out", out)
    assert other.exit_code == 2
    assert "to be of size 6x8, but it is 12x16" in other.output


def test_size_is_checked(mtan, tmp_path):
    result = call("cache", mtan, "--size", "12", "--out", tmp_path / "c")
    assert result.exit_code == 2
    assert "Expected `--size` to be height x width in pixels, such as 96x128, but got 12" in result.output
