"""`lomt inspect FACTORY` and `lomt prune`: what they parse, print, write and refuse."""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from lomt.cli import app
from lomt.pruning.plan import PruningPlan, Step

FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 1)
        self.depth = nn.Conv2d(width, 1, 1)
        self.edges = nn.Conv2d(width, 2, 1)
        self.spare = nn.Linear(3, 3)

    def forward(self, x):
        shared = self.stem(x).relu()
        return {"depth": self.depth(shared), "edges": self.edges(shared)}

def unread(width=16):
    torch.manual_seed(0)
    net = Net(width)
    with torch.no_grad():
        net.depth.weight[:, :4] = 0
        net.edges.weight[:, :4] = 0
    return net

def raises():
    raise RuntimeError("the disk is on fire")

def needs(width):
    return Net(width)

def nothing():
    return None

class Labels(Net):
    def forward(self, x):
        return super().forward(x)["edges"].argmax(1)

class Both(Net):
    def forward(self, x):
        edges = super().forward(x)["edges"]
        return {"edges": edges, "label": edges.argmax(1)}

class Detached(Net):
    def forward(self, x):
        return super().forward(x)["edges"].detach()

class Word(Net):
    def forward(self, x):
        return "done"

class Odd(Net):
    def forward(self, x):
        return super().forward(x)["edges"] / 0

def frozen():
    return Net().requires_grad_(False)

def broken():
    net = Net()
    net.stem.weight.data[0] = float("nan")
    return net

def elsewhere():
    return Net().to("meta")

def empty():
    return nn.ReLU()

class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 2)
        self.norm = nn.LayerNorm(16)

    def forward(self, x):
        return self.last(self.norm(self.first(x)))
"""
PLAN = PruningPlan(
    {},
    {},
    (),
    (),
    {"stem": "asked for"},
    {"stem": 16},
    100,
    50,
    10,
    5,
    (Step("lossy", "a cut", {"depth": 0.5}),),
)
SHAPE = ("--input", "1x3x4x4")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Work in an empty folder with a factory, on wide paper, and leave modules as they were."""
    (tmp_path / "nets.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    monkeypatch.setattr(sys, "path", sys.path[:])
    yield tmp_path
    sys.modules.pop("nets", None)


@pytest.fixture
def call(capsys):
    """Return a function that runs a command line and gives status, standard output and standard error."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            app(list(arguments), prog_name="lomt")
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return run


@dataclass
class Result:
    model: nn.Module
    plan: PruningPlan = PLAN


@pytest.fixture
def calls(monkeypatch):
    """Put a stand-in in the place of pruning that changes nothing; return what it was asked to do."""
    asked = []

    def prune(model, inputs, **settings):
        asked.append((model, inputs, settings))
        return Result(model)

    monkeypatch.setattr("lomt.compress.prune.prune", prune)
    return asked


# --- what is asked of pruning


def test_without_settings_only_what_is_exact_goes(call, calls):
    assert call("prune", "nets.py:Net", *SHAPE, "--out", "pruned")[0] == 0
    ((model, inputs, settings),) = calls
    assert (type(model).__name__, model.training, inputs.shape) == ("Net", False, (1, 3, 4, 4))
    assert settings == {
        "importance": "magnitude",
        "divisor": None,
        "ranking": "global",
        "exact": True,
        "protect": (),
        "threads": 1,
    }


def test_settings_are_passed_on(call, calls):
    settings = [
        "--macs",
        "0.5",
        "--importance",
        "random",
        "--divisor",
        "4",
        "--ranking",
        "layer",
        "--no-exact",
        "--threads",
        "2",
    ]
    protected = ["--protect", "stem", "--protect", "edges"]
    status, _, err = call(
        "prune", "nets:Net", *SHAPE, "--option", "width=12", *settings, *protected, "--dry-run"
    )
    assert (status, err) == (0, "")
    ((model, _, settings),) = calls
    assert model.stem.out_channels == 12
    assert settings == {
        "macs": 0.5,
        "importance": "random",
        "divisor": 4,
        "ranking": "layer",
        "exact": False,
        "protect": ("stem", "edges"),
        "threads": 2,
    }


@pytest.mark.parametrize(
    ("option", "name"), [("--channels", "channels"), ("--params", "params"), ("--latency-ms", "latency_ms")]
)
def test_budgets(call, calls, option, name):
    call("prune", "nets:Net", *SHAPE, option, "0.25", "--divisor", "auto", "--dry-run")
    assert calls[0][2][name] == 0.25
    assert calls[0][2]["divisor"] == "auto"


def test_importances_that_read_gradients_get_squared_outputs(call, calls):
    call("prune", "nets:Net", *SHAPE, "--importance", "task_union", "--dry-run")
    model, images, settings = calls[0]
    (losses,) = settings["losses"](model)
    assert torch.equal(losses["edges"], model(images)["edges"].square().mean())


def test_several_inputs_and_names(call, calls):
    call("prune", "nets:Net", "--input", "1x3x4x4", "--input", "1x5:int64", "--dry-run")
    call("prune", "nets:Net", "--input", "x=1x3x4x4", "--dry-run")
    assert [tensor.dtype for tensor in calls[0][1]] == [torch.float32, torch.int64]
    assert list(calls[1][1]) == ["x"]


def test_weights(call, calls):
    weights = {"state_dict": {"weight": torch.ones(2, 2), "bias": torch.ones(2)}}
    torch.save(weights, "w.pt")
    options = ("--option", "in_features=2", "--option", "out_features=2", "--weights", "w.pt", "--dry-run")
    assert call("prune", "torch.nn:Linear", "--input", "1x2", *options)[0] == 0
    assert torch.equal(calls[0][0].weight, torch.ones(2, 2))


# --- what is printed and written


def test_a_dry_run_prints_and_writes_nothing(call, calls, place):
    before = sorted(place.iterdir())
    status, out, _ = call("prune", "nets:Net", *SHAPE, "--dry-run", "--out", "pruned")
    assert status == 0
    assert out == f"{PLAN}\nNothing was written.\n"
    assert sorted(path for path in place.iterdir() if path.name != "__pycache__") == before


def test_the_pruned_model_is_written(call, calls, place):
    status, out, _ = call("prune", "nets.py:Net", *SHAPE, "--out", "runs/pruned")
    assert (status, out.splitlines()[-1]) == (0, "Written to runs/pruned.")
    import lomt

    assert torch.equal(lomt.load("runs/pruned").stem.weight, calls[0][0].stem.weight)
    assert call("prune", "nets.py:Net", *SHAPE, "--out", "runs/pruned")[0] == 0  # may be written again


def test_a_pruned_model_is_pruned_again(call, calls):
    call("prune", "nets.py:Net", *SHAPE, "--out", "one")
    assert call("prune", "one", *SHAPE, "--out", "two")[0] == 0
    assert torch.equal(calls[1][0].stem.weight, calls[0][0].stem.weight)


def test_explain(call, calls):
    _, out, _ = call("prune", "nets:Net", *SHAPE, "--dry-run", "--explain")
    assert out == f"{PLAN}\n\nstem: 16 of 16 kept: protected, asked for\nNothing was written.\n"


def test_json(call, calls):
    _, out, _ = call("prune", "nets.py:Net", *SHAPE, "--out", "pruned", "--json")
    assert json.loads(out) == {"directory": "pruned", "plan": PLAN.to_dict()}
    _, out, _ = call("prune", "nets.py:Net", *SHAPE, "--dry-run", "--json")
    assert json.loads(out)["directory"] is None


def test_an_interrupt_leaves_nothing(call, calls, monkeypatch, place):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("lomt.pruning.storage.structure_text", interrupt)
    assert call("prune", "nets.py:Net", *SHAPE, "--out", "pruned") == (130, "", "Interrupted.\n")
    assert list(Path("pruned").iterdir()) == []


# --- mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nets.py:Net", *SHAPE), "Expected `--out DIR` to say where the pruned model goes, or `--dry-run`."),
        (
            ("nets.py:Net", *SHAPE, "--out", "."),
            "Expected `--out` to be new, empty or a pruned model's directory, but",
        ),
        (
            ("nets.py:Net", *SHAPE, "--out", "nets.py"),
            "Expected `--out` to be a directory, but nets.py is a file.",
        ),
        (
            ("nets.py:Net", *SHAPE, "--macs", "0.5", "--latency-ms", "3", "--dry-run"),
            "Expected one budget at most, but got --macs and --latency-ms.",
        ),
        (
            ("nets.py:Net", *SHAPE, "--macs", "1.5", "--dry-run"),
            "Expected `--macs` to be a fraction above 0 and at most 1, but got 1.5.",
        ),
        (
            ("nets.py:Net", *SHAPE, "--params", "0", "--dry-run"),
            "Expected `--params` to be a fraction above 0",
        ),
        (
            ("nets.py:Net", *SHAPE, "--channels", "nan", "--dry-run"),
            "Expected `--channels` to be a fraction above",
        ),
        (
            ("nets.py:Net", *SHAPE, "--latency-ms", "-1", "--dry-run"),
            "Expected `--latency-ms` to be above 0 ms, but got -1.0.",
        ),
        (
            ("nets.py:Net", *SHAPE, "--divisor", "many", "--dry-run"),
            "Expected `--divisor` to be a positive integer or auto, but got many.",
        ),
        (
            ("nets.py:Net", *SHAPE, "--divisor", "0", "--dry-run"),
            "Expected `--divisor` to be a positive integer",
        ),
        (
            ("nets.py:Net", *SHAPE, "--threads", "0", "--dry-run"),
            "Expected `--threads` to be at least 1, but got 0.",
        ),
        (
            ("nets.py:Net", *SHAPE, "--option", "width", "--dry-run"),
            "Expected `--option` to be KEY=VALUE, such as num_classes=10, but got width.",
        ),
        (
            ("nets.py:Net", *SHAPE, "--option", "width=[1", "--dry-run"),
            "Expected the value of `--option width=[1` to be YAML, but it is not.",
        ),
        (
            ("nets.py:Net", "--input", "1x", "--dry-run"),
            "Expected `--input` to be a shape such as 1x3x224x224",
        ),
        (
            ("nets.py:Net", *SHAPE, "--weights", "none.pt", "--dry-run"),
            "Expected weights at none.pt, but there is no",
        ),
        (("nets.py:Nte", *SHAPE, "--dry-run"), "Unknown callable `Nte`, did you mean `Net`?"),
        (
            ("nte.py:Net", *SHAPE, "--dry-run"),
            "Expected a Python file at nte.py for factory `nte.py:Net`, but there",
        ),
        (
            ("resnet18", *SHAPE, "--dry-run"),
            "Expected the factory to be `package.module:callable`, `path/file.py:",
        ),
        (
            ("nets.py:raises", *SHAPE, "--dry-run"),
            "Expected factory `nets.py:raises` to return a model, but it raised RuntimeError: the disk is on fire. "
            "The log has the traceback (`-v`).",
        ),
        (
            ("nets.py:needs", *SHAPE, "--dry-run"),
            "Expected factory `nets.py:needs` to need no further arguments, but",
        ),
        (
            ("nets.py:nothing", *SHAPE, "--dry-run"),
            "Expected factory `nets.py:nothing` to return a torch.nn.Module, but got NoneType.",
        ),
    ],
)
def test_mistakes_are_one_message_and_status_2(call, calls, arguments, message):
    status, out, err = call("prune", *arguments)
    assert (status, out, calls) == (2, "", [])
    assert err.startswith(f"error: {message}")
    assert "Traceback" not in err


def test_inputs_are_needed(call):
    status, _, err = call("prune", "nets.py:Net", "--dry-run")
    assert status == 2
    assert "Missing option '--input'" in _plain(err)


def test_the_traceback_of_a_factory_is_in_the_log(call, calls):
    _, _, err = call("prune", "nets.py:raises", *SHAPE, "--dry-run", "-v")
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1].startswith("error: Expected factory `nets.py:raises` to return a model")


def test_what_pruning_refuses_is_an_error_without_traceback(call, calls, monkeypatch):
    def refuse(*args, **kwargs):
        raise ValueError("Expected `macs` to be at least 0.2, but got 0.1.")

    monkeypatch.setattr("lomt.compress.prune.prune", refuse)
    status, _, err = call("prune", "nets.py:Net", *SHAPE, "--macs", "0.1", "--dry-run")
    assert (status, err) == (2, "error: Expected `macs` to be at least 0.2, but got 0.1.\n")


# --- inspect, and pruning itself


def test_inspect_shows_parts_channels_and_what_is_protected(call):
    status, out, err = call("inspect", "nets.py:Net", *SHAPE, "--protect", "stem")
    assert (status, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert ["part", "params", "share", "MACs"] in rows
    assert ["shared", "64", "50.4", "%", "768"] in rows
    assert ["depth", "17", "13.4", "%", "256"] in rows
    assert any(row[:2] == ["stem", "16"] for row in rows[rows.index(["protected", "channels", "because"]) :])
    assert rows[-1] == ["Unused", "layers:", "spare"]

    _, out, _ = call("inspect", "nets.py:Net", *SHAPE)
    assert ["stem", "16", "shared", "1", "layer", "depth", "+1", "exact"] in [
        line.split() for line in out.splitlines()
    ]


def test_inspect_prints_json(call):
    _, out, _ = call("inspect", "nets.py:Net", *SHAPE, "--json")
    values = json.loads(out)
    assert [part["name"] for part in values["parts"]] == ["shared", "depth", "edges", "unused"]
    assert values["unused_layers"] == ["spare"]


def test_inspect_takes_options_before_the_factory(call):
    assert call("inspect", *SHAPE, "nets.py:Net") == call("inspect", "model", "nets.py:Net", *SHAPE)


def test_inspect_backbone_is_still_there(call):
    status, out, _ = call("inspect", "backbone", "resnet18", "--size", "64x64")
    assert status == 0
    assert out.startswith("resnet18 at 64x64")


def test_inspect_without_anything_shows_help(call):
    assert "lomt inspect FACTORY --input SHAPE" in _plain(call("inspect", "--help")[1]).replace(
        "[OPTIONS] ", ""
    )


def test_exact_removal_end_to_end(call):
    status, _, err = call("prune", "nets.py:unread", *SHAPE, "--out", "pruned")
    assert (status, err) == (0, "")
    import lomt
    from lomt.models.factory import Factory

    loaded, images = lomt.load("pruned"), torch.rand(1, 3, 4, 4)
    assert loaded.stem.out_channels == 12
    expected = Factory("nets.py:unread").build()(images)
    assert all(torch.allclose(value, expected[name], atol=1e-6) for name, value in loaded(images).items())


def test_two_prunings_end_to_end(call):
    assert call("prune", "nets.py:Net", *SHAPE, "--channels", "0.5", "--divisor", "1", "--out", "one")[0] == 0
    status, _, err = call("prune", "one", *SHAPE, "--channels", "0.5", "--divisor", "1", "--out", "two")
    assert (status, err) == (0, "")
    import lomt

    assert [lomt.load(name).stem.out_channels for name in ("one", "two")] == [8, 4]


def test_python_interface():
    import lomt
    from lomt.models.factory import Factory

    model, images = Factory("nets.py:Net").build(), torch.rand(2, 3, 4, 4)
    result = lomt.prune(model, images, channels=0.5)
    loaded = lomt.load(lomt.save(result, "pruned", factory="nets.py:Net"))
    assert all(
        torch.equal(loaded(images)[name], value) for name, value in result.model.eval()(images).items()
    )


# --- help


@pytest.mark.parametrize("verb", ["prune", "inspect model", "inspect"])
def test_every_help_ends_with_an_example_that_works(call, verb):
    status, text, _ = call(*verb.split(), "--help")
    assert status == 0
    last = [line for line in _plain(text).splitlines() if line.strip()][-1]
    program, *example = shlex.split(last.partition("Example: ")[2])
    assert (program, example[0]) == ("lomt", verb.split()[0])
    assert call(*example)[0] == 0
    assert len(last.strip()) <= 78


def test_importing_lomt_is_light_and_unknown_names_are_errors():
    code = (
        "import sys, lomt; assert 'torch' not in sys.modules\n"
        "try: lomt.prnue\n"
        "except AttributeError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "module 'lomt' has no attribute 'prnue'\n"


def _plain(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


NO_FLOAT = (
    "Expected an output of a floating-point type, but `output` is torch.int64. Return what the labels are taken from, "
    "such as the logits before an argmax."
)
NO_TENSOR = (
    "Expected the model to return a tensor, or tensors in a dict, list, tuple or dataclass, but got none."
)
NO_GRADIENT = (
    "Expected an output with a gradient, which this importance reads, but the model cuts off the gradients of all. "
    "Take importance `magnitude`, or change the model's `forward`."
)
FROZEN = (
    "Expected a model with parameters that may be changed, but all are frozen. Unfreeze what may be pruned: "
    "model.requires_grad_(True)."
)
NOT_FINITE = "Expected finite weights, but `stem.weight` holds values that are infinite or not a number."
META = "Expected weights with values, but `stem.weight` is on device meta, which has none. Build the model on the CPU."
SHAPES = (
    "Expected the model to run on example inputs of shape (1, 4, 4, 4), but it raised RuntimeError: Given groups=1, "
    "weight of size [16, 3, 1, 1], expected input[1, 4, 4, 4] to have 3 channels, but got 4 channels instead"
)
OUT_OF_REACH = (
    "Expected `macs` to be at least 0.1250, all that can be reached with these least widths, divisor and protected "
    "layers, but got 0.01. Lower `minimum` or `divisor`, or protect fewer layers."
)
ALL_PROTECTED = "Expected coupled channels that may be pruned, but all"
MODELS = {
    "labels only": (("Labels", *SHAPE), NO_FLOAT),
    "no tensor": (("Word", *SHAPE), NO_TENSOR),
    "no gradient": (("Detached", *SHAPE, "--macs", "0.5", "--importance", "taylor"), NO_GRADIENT),
    "no gradient by task": (("Detached", *SHAPE, "--macs", "0.5", "--importance", "task_union"), NO_GRADIENT),
    "frozen": (("frozen", *SHAPE), FROZEN),
    "no parameters": (("empty", *SHAPE), "Expected the model to have parameters, but it has none."),
    "weights not a number": (("broken", *SHAPE), NOT_FINITE),
    "another device": (("elsewhere", *SHAPE), META),
    "wrong shape": (("Net", "--input", "1x4x4x4"), SHAPES),
    "out of reach": (("Net", *SHAPE, "--macs", "0.01", "--divisor", "1"), OUT_OF_REACH),
    "everything protected": (("Net", *SHAPE, "--channels", "0.5", "--protect", "*"), ALL_PROTECTED),
    "outputs not finite": (
        ("Odd", *SHAPE, "--channels", "0.5"),
        "Expected finite outputs for the example inputs, but output `output` holds values that are infinite",
    ),
    "unknown protected layer": (
        ("Net", *SHAPE, "--protect", "zzz"),
        "Unknown layer to protect `zzz`. Known are depth, edges, spare, stem.",
    ),
    "unknown importance": (
        ("Net", *SHAPE, "--importance", "mag"),
        "Unknown importance `mag`. Known are batchnorm,",
    ),
    "unknown ranking": (
        ("Net", *SHAPE, "--ranking", "x"),
        "Unknown ranking `x`. Known are component, global, layer.",
    ),
}


@pytest.mark.parametrize("case", MODELS)
def test_what_cannot_be_pruned_is_one_message_and_status_2(call, case):
    (name, *arguments), message = MODELS[case]
    status, out, err = call("prune", f"nets.py:{name}", *arguments, "--dry-run")
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "case", ["labels only", "frozen", "another device", "wrong shape", "unknown protected layer"]
)
def test_inspect_refuses_the_same(call, case):
    (name, *arguments), message = MODELS[case]
    status, out, err = call("inspect", f"nets.py:{name}", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {message}")


def test_labels_beside_other_outputs_are_outputs(call):
    status, out, err = call("inspect", "nets.py:Both", *SHAPE)
    assert (status, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[1:4]] == ["shared", "edges", "label"]


def test_inspect_says_why_removal_is_lossy(call):
    _, out, _ = call("inspect", "nets.py:Norms", "--input", "2x4")
    assert ["first", "16", "output", "1", "layer", "last", "lossy"] in [
        line.split() for line in out.splitlines()
    ]
    assert "Lossy: first, because of the normalisation `norm`" in out.splitlines()


def test_a_table_of_many_coupled_layers_fits_on_100_columns(call):
    _, out, _ = call("inspect", "timm:resnet18", "--input", "1x3x32x32")
    lines = out.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 100
    assert any(
        line.split()[:8] == ["conv1", "64", "output", "3", "layers", "layer1.0.conv1", "+3", "exact"]
        for line in lines
    )
