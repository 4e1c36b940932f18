import pytest

from lomt.branching import (
    DecoderInput,
    DensityProfile,
    LayerEvidence,
    format_branch_points,
    read_branch_points,
)
from lomt.errors import ArtifactError, UnknownNameError
from lomt.models import Layer

LAYERS = [Layer(f"blocks.{i}", "block", 8, 4, 1000 * (i + 1), 10**6 * (i + 1), i > 0) for i in range(3)]
PROFILE = DensityProfile("depth", tuple(LayerEvidence(f"blocks.{i}", (0.5,), i > 0) for i in range(3)))


def test_what_is_written_is_read_back_and_shows_the_evidence(tmp_path):
    chosen = {"depth": "blocks.1", "edges": "blocks.0"}
    text = format_branch_points(chosen, {"depth": PROFILE}, LAYERS)
    path = tmp_path / "branch_points.yaml"
    path.write_text(text)

    assert read_branch_points(path, ["depth", "edges"]) == chosen
    assert "50.0%" in text
    assert any("blocks.1" in line and line.endswith("<-") for line in text.splitlines())


def test_losses_of_trials_are_shown():
    text = format_branch_points(
        {"depth": "blocks.1"}, {"depth": PROFILE}, LAYERS, {"depth": {"blocks.2": 0.5, "blocks.1": 0.25}}
    )

    assert "#   loss when trained alone at a layer: blocks.2 0.5000, blocks.1 0.2500\n" in text


def test_decoders_of_several_inputs_show_where_each_is_read(tmp_path):
    chosen = {"depth": "blocks.1", "edges": "blocks.1", "normals": "blocks.1"}
    moved = DecoderInput("blocks.2", "blocks.1", {"blocks.1": 0.61, "blocks.0": 0.258})
    inputs = {
        "depth": (DecoderInput("blocks.0", "blocks.0"), moved),
        "edges": (moved,),
        "normals": (DecoderInput("blocks.2", "blocks.1"),),
    }
    path = tmp_path / "branch_points.yaml"
    path.write_text(format_branch_points(chosen, {}, LAYERS, inputs=inputs))

    text = path.read_text()
    assert text.count("its decoder") == 4
    assert "#   its decoder goes on reading blocks.0\n" in text
    place = "#   its decoder reads blocks.1 in place of blocks.2, by an adapter"
    assert text.count(f"{place}; of it explain blocks.1 61%, blocks.0 26%\n") == 2
    assert text.count(f"{place}\n") == 1
    assert read_branch_points(path, ["depth", "edges", "normals"]) == chosen


def test_inputs_that_read_other_layers_than_the_branch_point_are_listed(tmp_path):
    inputs = (
        DecoderInput("blocks.0", "blocks.0"),
        DecoderInput("blocks.2", "blocks.1"),
        DecoderInput("blocks.3", "blocks.0"),
    )
    path = tmp_path / "branch_points.yaml"
    path.write_text(format_branch_points({"depth": "blocks.1"}, {}, LAYERS, inputs={"depth": inputs}))

    assert "\ndepth:\n  blocks.2: blocks.1\n  blocks.3: blocks.0\n" in path.read_text()
    assert read_branch_points(path, ["depth"]) == {"depth": {"blocks.2": "blocks.1", "blocks.3": "blocks.0"}}


def test_order_is_that_of_the_tasks(tmp_path):
    path = tmp_path / "branch_points.yaml"
    path.write_text("edges: blocks.0\ndepth: blocks.1\n")

    assert list(read_branch_points(path, ["depth", "edges"])) == ["depth", "edges"]


def test_missing_file_names_the_way_out(tmp_path):
    with pytest.raises(ArtifactError, match="there is no such file. Run `lomt locate` first"):
        read_branch_points(tmp_path / "branch_points.yaml", ["depth"])


@pytest.mark.parametrize("text", ["[1, 2]", "depth: 3", "just words", "depth: {}", "depth: {blocks.1: 2}"])
def test_other_content_is_refused(tmp_path, text):
    path = tmp_path / "branch_points.yaml"
    path.write_text(text)
    with pytest.raises(
        ArtifactError, match="to hold lines `task: layer`, or a mapping of layers below a task, but got"
    ):
        read_branch_points(path, ["depth"])


def test_broken_yaml_is_refused(tmp_path):
    path = tmp_path / "branch_points.yaml"
    path.write_text("depth: [")
    with pytest.raises(ArtifactError, match="are not YAML"):
        read_branch_points(path, ["depth"])


def test_unknown_and_missing_tasks_are_named(tmp_path):
    path = tmp_path / "branch_points.yaml"
    path.write_text("depht: blocks.1\n")
    with pytest.raises(UnknownNameError, match="Unknown task `depht`, did you mean `depth`"):
        read_branch_points(path, ["depth"])
    path.write_text("depth: blocks.1\n")
    with pytest.raises(ArtifactError, match="lack task `edges`. Add a line for each"):
        read_branch_points(path, ["depth", "edges"])
