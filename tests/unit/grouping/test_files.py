import sys

import pytest
import torch
import yaml

from lomt.errors import ArtifactError, LomtError, UnknownNameError
from lomt.grouping import (
    Affinity,
    Grouping,
    Membership,
    format_groups,
    read_groups,
    write_heat_map,
    write_membership_map,
)

GROUPS = (("depth", "normals"), ("edges",))
TASKS = ("depth", "edges", "normals")


def test_groups_come_back(tmp_path):
    path = tmp_path / "groups.yaml"
    path.write_text(format_groups(Grouping(GROUPS, "sdp"), "by hand"))

    assert "# by hand" in path.read_text()
    assert yaml.safe_load(path.read_text()) == [["depth", "normals"], ["edges"]]
    assert read_groups(path, TASKS) == Grouping(GROUPS, "by hand")


def test_helpers_come_back(tmp_path):
    path = tmp_path / "groups.yaml"
    path.write_text(format_groups(Grouping(GROUPS, "tag", {}, ((), ("depth",)))))

    assert "- [edges, +depth]\n" in path.read_text()
    assert read_groups(path, TASKS).helpers == ((), ("depth",))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (None, ArtifactError, "there is no such file. Run `lomt group` first"),
        ("- [depth", ArtifactError, "are not YAML"),
        ("depth: 1", ArtifactError, r"to hold lines `- \[task, task\]`, but got"),
        ("- [depth, normals, egdes]", UnknownNameError, "Unknown task `egdes`, did you mean `edges`"),
        ("- [depth, normals]", ArtifactError, "task `edges` to be in one group .* but it is in none"),
        ("- [depth, normals]\n- [edges, depth]", ArtifactError, "task `depth` .* but it is in 2"),
        ("- [depth, normals]\n- [edges, +dpth]", UnknownNameError, "Unknown task `dpth`"),
        ("- [depth, normals]\n- [+edges]", ArtifactError, "task `edges` .* but it is in none"),
        (
            "- [depth, normals, edges]\n- [+edges]",
            ArtifactError,
            r"to serve a task, but got one of `\+edges`",
        ),
        ("- [depth, normals, +depth]\n- [edges]", ArtifactError, r"Expected `\+depth` .* there twice"),
    ],
)
def test_what_is_wrong_with_groups_is_named(tmp_path, text, error, message):
    path = tmp_path / "groups.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match=message):
        read_groups(path, TASKS)


def test_heat_map_is_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    matrix = torch.tensor([[0.5, -0.1, 0.3], [-0.2, 0.1, 0.0], [0.4, 0.0, 0.2]], dtype=torch.float64)
    write_heat_map(tmp_path / "map.png", Affinity(TASKS, matrix, "gradtag"), GROUPS)

    assert (tmp_path / "map.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_membership_map_is_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    matrix = torch.tensor([[0.9, 0.0, 0.1], [0.2, 0.0, 0.8], [0.7, 0.0, 0.3]], dtype=torch.float64)
    membership = Membership(TASKS, matrix, "dmtg", {"hard": False})
    write_membership_map(tmp_path / "map.png", membership)

    assert (tmp_path / "map.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert membership.grouping == Grouping(GROUPS, "dmtg", {"asked_groups": 3, "columns": [0, 2]})
    assert membership.to_dict()["membership"] == matrix.tolist()
    assert "depth    0.9000 0.0000 0.1000" in str(membership)


def test_without_matplotlib_the_way_out_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    affinity = Affinity(TASKS, torch.eye(3, dtype=torch.float64), "gradtag")
    with pytest.raises(LomtError, match=r"lomt\[grouping\]`, or set `group.heat_map` to false"):
        write_heat_map(tmp_path / "map.png", affinity, GROUPS)
