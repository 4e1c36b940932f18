"""`lomt export` of models, `lomt verify` and `lomt cost`: what they parse, write, print and refuse."""

import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from typer.testing import CliRunner

from lomt.cli import app
from lomt.cli_deploy import is_recipe

FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.deep = nn.Conv2d(width, width, 3, padding=1)
        self.edges = nn.Conv2d(width, 1, 1)
        self.depth = nn.Conv2d(width, 1, 1)
        self.rooms = nn.Linear(width, 4)

    def forward(self, images):
        early = self.stem(images).relu()
        deep = self.deep(early).relu()
        return {"depth": self.depth(deep), "edges": self.edges(early), "rooms": self.rooms(deep.mean((2, 3)))}

class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(3 * 6 * 8, 2)

    def forward(self, images):
        return self.head(images.flatten(1))
"""
MODEL = ("nets.py:Net", "--input", "1x3x6x8")
BAKED = ("--bake-preprocessing", "--mean", "0.5,0.4,0.3", "--std", "0.2,0.2,0.3", "--highest", "255")
KINDS = (
    "--kind",
    "depth=depth",
    "--kind",
    "edges=edges",
    "--kind",
    "rooms=classification",
    "--answer",
    "labels",
)


def invoke(*arguments):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deploy")
    (folder / "nets.py").write_text(FACTORY)
    return folder


@pytest.fixture(autouse=True)
def surroundings(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    monkeypatch.setattr(sys, "path", sys.path[:])


@pytest.fixture(scope="module")
def exported(place):
    """All tasks and each, with everything baked in; exporting takes seconds and is done once."""
    patch = pytest.MonkeyPatch()
    patch.chdir(place)
    answer = invoke("export", *MODEL, "--out", "all.onnx", "--per-task", *BAKED, *KINDS)
    patch.undo()
    assert answer[0] == 0, answer
    return place / "all.onnx", answer[1]


def changed(path, name, change):
    network = onnx.load(path)
    change(network)
    onnx.save(network, path.with_name(name))
    return path.with_name(name)


# --- export


def test_export_writes_one_file_for_all_and_one_for_each_task(exported, place):
    _, printed = exported
    assert sorted(path.name for path in place.glob("*.onnx*")) == [
        "all.onnx",
        "depth.onnx",
        "edges.onnx",
        "rooms.onnx",
    ]
    lines = [line.split() for line in printed.splitlines()]
    shown = {line[0]: line for line in lines if line and line[0].endswith(".onnx")}
    assert shown["all.onnx"][1:4] == ["depth,", "edges,", "rooms"]
    macs = {name: int(line[-3].replace(",", "")) for name, line in shown.items()}
    stem, deep = 6 * 8 * 8 * 3 * 9, 6 * 8 * 8 * 8 * 9
    assert macs["edges.onnx"] == stem + 6 * 8 * 8  # what branches early is cheap
    assert macs["depth.onnx"] == stem + deep + 6 * 8 * 8
    assert macs["all.onnx"] == stem + deep + 2 * 6 * 8 * 8 + 8 * 4
    assert "Images may have any size; checked at 6x8 and another." in printed
    report = json.loads((place / "all.verification.json").read_text())
    assert report["passed"] and list(report["files"]) == [
        "all.onnx",
        "depth.onnx",
        "edges.onnx",
        "rooms.onnx",
    ]
    sizes = {(check["batch"], *check["size"]) for check in report["files"]["all.onnx"]["values"]["checks"]}
    assert sizes == {(batch, *size) for batch in (1, 3, 8) for size in ((6, 8), (32, 64))}


def test_the_file_takes_raw_images_and_gives_labels(exported, monkeypatch):
    path, _ = exported
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 10, 7)).astype(np.float32)
    session = onnxruntime.InferenceSession(path)
    found = dict(zip(("depth", "edges", "rooms"), session.run(None, {"images": images}), strict=True))
    space = {}
    exec(FACTORY, space)
    mean, std = (torch.tensor(own)[:, None, None] for own in ((0.5, 0.4, 0.3), (0.2, 0.2, 0.3)))
    with torch.no_grad():
        expected = space["Net"]()((torch.from_numpy(images) / 255 - mean) / std)
    np.testing.assert_allclose(found["depth"], expected["depth"], atol=1e-4)
    np.testing.assert_allclose(found["edges"], expected["edges"].sigmoid(), atol=1e-4)
    np.testing.assert_array_equal(found["rooms"], expected["rooms"].argmax(1))
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["lomt.outputs"])["rooms"]["values"] == "labels"
    assert json.loads(metadata["lomt.preprocessing"])["highest"] == 255


def test_one_task_with_all_sizes_fixed(place):
    arguments = ("nets.py:Net", "--input", "2x3x6x8", "--task", "edges", "--fixed-batch", "--fixed-size")
    status, out, _ = invoke("export", *arguments, "--opset", "19", "--out", "one.onnx")
    assert status == 0 and "Images are 6x8 only: it was asked for." in out
    network = onnx.load(place / "one.onnx")
    assert [size.dim_value for size in network.graph.input[0].type.tensor_type.shape.dim] == [2, 3, 6, 8]
    assert [output.name for output in network.graph.output] == ["edges"]
    assert network.opset_import[0].version == 19
    assert invoke("verify", "one.onnx", "--against", *MODEL)[0] == 0


def test_why_a_size_is_fixed_is_told(place):
    status, out, _ = invoke("export", "nets.py:Fixed", "--input", "1x3x6x8", "--out", "fixed.onnx")
    assert status == 0
    # what follows is torch's own message, which changes from version to version
    assert "Images are 6x8 only: the model takes no images of 32x64: RuntimeError: " in out
    assert "shapes cannot be multiplied (1x6144 and 144x2)." in out
    assert invoke("verify", "fixed.onnx", "--against", "nets.py:Fixed", "--input", "1x3x6x8")[0] == 0


def test_a_wrong_file_never_gets_its_name(place, monkeypatch):
    from lomt.deploy import onnx_export

    write = onnx_export._write

    def corrupt(network, path):
        first, second = network.graph.output[0], network.graph.output[1]
        first.name, second.name = second.name, first.name
        for node in network.graph.node:
            node.output[:] = [{"depth": "edges", "edges": "depth"}.get(name, name) for name in node.output]
        network.graph.output[0].name, network.graph.output[1].name = "depth", "edges"
        write(network, path)

    monkeypatch.setattr(onnx_export, "_write", corrupt)
    before = sorted(path.name for path in place.iterdir())
    status, _, err = invoke("export", *MODEL, "--out", "wrong.onnx", "--fixed-size")
    assert status == 1
    assert err.startswith("error: Expected `wrong.onnx` to compute what the model does")
    assert "output `edges`, batch 8, 6x8: largest difference" in err
    assert sorted(path.name for path in place.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((*MODEL,), "Expected `--out` to be an ONNX file, such as model.onnx, but got nothing."),
        (
            (*MODEL, "--out", "deploy"),
            "Expected `--out` to be an ONNX file, such as model.onnx, but got deploy.",
        ),
        ((*MODEL, "--out", "no/a.onnx"), "Expected the folder of `--out no/a.onnx` to exist. Make it first."),
        (
            (*MODEL, "--out", "a.onnx", "--set", "seed=1"),
            "Expected `--set` only with a recipe, but nets.py:Net is a",
        ),
        (
            ("nets.py:Net", "--out", "a.onnx"),
            "Expected `--input SHAPE`, such as 1x3x224x224, because nets.py:Net",
        ),
        (
            ("nets.py:Net", "--input", "1x16", "--out", "a.onnx"),
            "Expected one `--input` for the images, of the form",
        ),
        (("nets.py:Net", "--input", "1xx", "--out", "a.onnx"), "Expected `--input` to be"),
        (
            (*MODEL, "--out", "a.onnx", "--bake-preprocessing"),
            "Expected `--mean` and `--std` for `--bake-prep",
        ),
        (
            (*MODEL, "--out", "a.onnx", "--mean", "1,1,1"),
            "Expected `--mean` and `--std` together, but got one of",
        ),
        (
            (*MODEL, "--out", "a.onnx", "--mean", "a", "--std", "1"),
            "Expected `--mean` to be numbers with commas",
        ),
        (
            (*MODEL, "--out", "a.onnx", "--highest", "255"),
            "Expected `--channel-order` and `--highest` together with",
        ),
        (
            (*MODEL, "--out", "a.onnx", "--answer", "labels"),
            "Expected the kind of task `depth`, because its answer",
        ),
        (
            (*MODEL, "--out", "a.onnx", "--kind", "depth"),
            "Expected `--kind` to be TASK=KIND, such as depth=depth",
        ),
        ((*MODEL, "--out", "a.onnx", "--kind", "dept=depth"), "Unknown task `dept`, did you mean `depth`?"),
        ((*MODEL, "--out", "a.onnx", "--task", "dept"), "Unknown task `dept`, did you mean `depth`?"),
        ((*MODEL, "--out", "a.onnx", "--opset", "17"), "Expected `opset` to be at least 18, but got 17."),
        (
            (*MODEL, "--out", "depth.onnx", "--per-task"),
            "Expected `--out` not to be the file of a task, but got",
        ),
        (
            ("rooms_demo", "--task", "depth"),
            "Expected no --task with the recipe rooms_demo. It says what is exported; give a run",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else " ".join(value[-2:]),
)
def test_what_export_cannot_use_is_refused(arguments, text):
    status, out, err = invoke("export", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {text}")


@pytest.mark.parametrize(
    ("source", "answer"),
    [
        ("rooms_demo", True),
        ("my.yaml", True),
        ("C:/my.yml", True),
        ("timm:resnet18", False),
        ("nets.py:Net", False),
        (".", False),
    ],
)
def test_recipes_are_told_from_models(source, answer):
    assert is_recipe(source) is answer


# --- verify


def test_a_right_file_is_verified(exported, place):
    path, _ = exported
    status, out, err = invoke("verify", path, "--against", *MODEL, "--json", "report.json")
    assert (status, err) == (0, "")
    assert "all.onnx computes what nets.py:Net does. Report in report.json." in out
    report = json.loads((place / "report.json").read_text())
    assert report["passed"] and report["files"]["all.onnx"]["against"] == "nets.py:Net"


def swap_outputs(network):
    names = {"depth": "edges", "edges": "depth"}
    for node in network.graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]


def set_weight(name, values):
    def change(network):
        tensor = next(tensor for tensor in network.graph.initializer if tensor.name == name)
        array = values(numpy_helper.to_array(tensor).copy())
        tensor.CopyFrom(numpy_helper.from_array(array, name))

    return change


def truncate(network):
    tensor = next(tensor for tensor in network.graph.initializer if tensor.name == "deep.weight")
    tensor.raw_data = tensor.raw_data[:-400]


def say(key, change):
    def set_entry(network):
        entry = next(entry for entry in network.metadata_props if entry.key == key)
        entry.value = change(entry.value)

    return set_entry


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (swap_outputs, "output `depth`, batch 3, 6x8: largest difference"),
        (
            set_weight("preprocessing.shift", lambda shift: shift + 0.1),
            "output `depth`, batch 1, 6x8: largest",
        ),
        (truncate, "Expected onnxruntime to load `"),
        (say("lomt.weights_sha256", lambda text: "0" * 64), "Expected the weights' SHA-256"),
        (
            say("lomt.tasks", lambda text: '["edges"]'),
            "Expected the metadata to name the outputs depth, edges, rooms,",
        ),
        (say("lomt.outputs", lambda text: "{"), "Expected the metadata `lomt.outputs` and"),
    ],
    ids=[
        "swapped outputs",
        "wrong mean",
        "truncated weight",
        "other weights",
        "wrong tasks",
        "damaged metadata",
    ],
)
def test_a_corrupt_file_is_caught(change, text, exported, place):
    broken = changed(exported[0], "broken.onnx", change)
    status, _, err = invoke("verify", broken, "--against", *MODEL)
    broken.unlink()
    assert status == 1
    assert text in err and err.startswith(f"error: {broken} is not nets.py:Net:")
    report = json.loads((place / "broken.verification.json").read_text())
    assert not report["passed"] and report["files"]["broken.onnx"]["problems"]


def test_another_model_is_caught(exported):
    status, _, err = invoke("verify", exported[0], "--against", *MODEL, "--option", "width=4")
    assert status == 1 and "the file was made from other weights." in err
    status, _, err = invoke("verify", exported[0], "--against", "nets.py:Fixed", "--input", "1x3x6x8")
    assert status == 1 and "to be among output, but got depth, edges, rooms." in err


def test_a_file_that_is_not_there_is_an_error():
    status, _, err = invoke("verify", "nowhere.onnx", "--against", *MODEL)
    assert (status, err) == (
        2,
        "error: Expected `nowhere.onnx` to be an ONNX file, but there is none. Export it first.\n",
    )


# --- cost


def test_cost_of_a_model_agrees_with_torch():
    status, out, err = invoke("cost", *MODEL, "--batch", "2")
    assert (status, err) == (0, "")
    assert "torch's counter says the same." in out
    assert "Batch 2, 6x8; the file has" in out
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert lines["stem"][:2] == ["224", f"{2 * 6 * 8 * 8 * 27:,}"]
    assert int(lines["edges"][1].replace(",", "")) == 2 * (6 * 8 * 8 * 27 + 6 * 8 * 8)


def test_cost_of_a_file_is_that_of_its_parts(exported):
    status, out, _ = invoke("cost", exported[0], "--size", "20x30", "--json")
    found = json.loads(out)
    assert status == 0 and found["size"] == [20, 30] and found["torch_macs"] is None
    for name in ("params", "macs", "activations", "weight_bytes"):
        assert sum(part[name] for part in found["components"].values()) == found[name]
    assert found["components"]["deep"]["macs"] == 20 * 30 * 8 * 8 * 9
    assert set(found["tasks"]) == {"depth", "edges", "rooms"}
    assert found["tasks"]["edges"]["macs"] == 20 * 30 * (8 * 27 + 8)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ("all.onnx", "--size", "20"),
            "Expected `--size` to be height x width in pixels, such as 96x128, but got 20.",
        ),
        (("all.onnx", "--batch", "0"), "Expected `batch` to be at least 1, but got 0."),
        (("nets.py", "--batch", "1"), "Expected `nets.py` to be an ONNX network, but got: "),
    ],
)
def test_what_cost_cannot_use_is_refused(arguments, text, exported):
    status, _, err = invoke("cost", *arguments)
    assert status == 2 and err.startswith(f"error: {text}")
