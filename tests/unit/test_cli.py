"""The command line: what it parses, prints and returns."""

import errno
import json
import re
import resource
import shlex
import subprocess
import sys
from types import ModuleType

import pytest
import yaml

import lomt
from lomt.cli import STAGES, app
from lomt.cli_inspect import GRANULARITIES
from lomt.errors import LomtError

VERBS = ["run", *STAGES, "group", "add", "validate", "recipes", "inspect backbone"]


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """Work in an empty folder, on wide paper."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERMINAL_WIDTH", "200")


@pytest.fixture
def call(capsys):
    """Return a function that runs a command line and gives status, standard output and standard error."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            app(list(arguments), prog_name="lomt")
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return run


class Pipeline(ModuleType):
    """Stands in for lomt.pipeline and remembers what it was asked to do."""

    def __init__(self):
        super().__init__("lomt.pipeline")
        self.calls = []
        self.error = None

    def run(self, recipe, out, *, first, last, progress, **choices):
        self.calls.append((recipe, out.as_posix(), first, last, choices))
        progress.start("training", 2)
        progress.message("halfway")
        if self.error is not None:
            raise self.error
        progress.finish("fine")
        if last == "locate":
            (out / "locate").mkdir(parents=True)
            (out / "locate" / "report.txt").write_text("the report")
        return "the summary"

    def group(self, recipe, out, *, groups, progress):
        self.groups = None if groups is None else groups.as_posix()
        return "the groups"

    def add(self, recipe, out, *, network, task, progress):
        self.added = (network.as_posix(), task)
        return "the extended network"


@pytest.fixture
def pipeline(monkeypatch):
    """Put a stand-in in the place of the pipeline, and skip the slow look-up of names."""
    stand_in = Pipeline()
    monkeypatch.setitem(sys.modules, "lomt.pipeline", stand_in)
    monkeypatch.setattr(lomt, "pipeline", stand_in, raising=False)
    monkeypatch.setattr("lomt.recipe.load.find_unknown_names", lambda recipe: ())
    return stand_in


# --- what is asked of the pipeline


def test_run_does_all_stages_in_the_default_directory(call, pipeline):
    status, out, err = call("run", "rooms_demo")
    assert (status, err) == (0, "")
    assert out.splitlines() == ["training: 0/2", "halfway", "training: done in 0:00, fine", "the summary"]
    ((recipe, directory, first, last, choices),) = pipeline.calls
    assert (recipe.name, directory, first, last) == ("rooms_demo", "runs/rooms_demo", "train", "bench")
    assert choices == {}


def test_add_asks_for_a_task_and_a_network(call, pipeline):
    status, out, _ = call(
        "add", "rooms_demo", "--network", "runs/x/dense", "--task", "edges", "--out", "here"
    )
    assert (status, out.splitlines()[-1]) == (0, "the extended network")
    assert pipeline.added == ("runs/x/dense", "edges")
    assert call("add", "rooms_demo", "--network", "runs/x/dense")[0] == 0
    assert pipeline.added == ("runs/x/dense", None)
    assert call("add", "rooms_demo")[0] == 2


def test_a_task_cannot_be_added_to_nothing(call):
    status, _, err = call("add", "rooms_demo", "--network", "nowhere", "--task", "edges")
    assert (status, err) == (
        2,
        "error: Expected `--network` to be a folder with a saved network, such as runs/demo/dense, but nowhere has "
        "none.\n",
    )


def test_group_asks_for_groups(call, pipeline, tmp_path):
    (tmp_path / "groups.yaml").write_text("")
    status, out, _ = call("group", "rooms_demo", "--out", "here", "--groups", "groups.yaml")
    assert (status, out.splitlines()[-1]) == (0, "the groups")
    assert pipeline.groups == "groups.yaml"


def test_run_takes_settings_directory_and_stages(call, pipeline):
    settings = ("--set", "train.epochs=9", "--set", "seed=4")
    call("run", "rooms_demo", *settings, "--out", "here", "--from", "locate", "--until", "export")
    ((recipe, directory, first, last, _),) = pipeline.calls
    assert (recipe.train.epochs, recipe.seed) == (9, 4)
    assert (directory, first, last) == ("here", "locate", "export")


# `lomt prune` takes a model of any origin; the stage runs by `lomt run RECIPE --from prune --until prune`.
@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "prune"])
def test_every_stage_is_a_verb(call, pipeline, stage):
    status, out, _ = call(stage, "rooms_demo", "--set", "seed=4", "--out", "here")
    ((recipe, directory, first, last, choices),) = pipeline.calls
    assert (status, recipe.seed, directory, first, last, choices) == (0, 4, "here", stage, stage, {})
    assert out.endswith("the summary\nthe report\n" if stage == "locate" else "the summary\n")


def test_rewire_passes_branch_points_on(call, pipeline, tmp_path):
    file = tmp_path / "points.yaml"
    file.write_text("depth: layer2\n")
    assert call("rewire", "rooms_demo", "--branch-points", str(file))[0] == 0
    assert pipeline.calls[0][-1] == {"branch_points": file}


def test_missing_branch_points_are_refused(call, pipeline):
    status, _, err = call("rewire", "rooms_demo", "--branch-points", "nowhere.yaml")
    assert (status, pipeline.calls) == (2, [])
    assert "'nowhere.yaml' does not exist" in err


def test_stages_are_those_of_the_pipeline():
    from lomt import pipeline

    assert pipeline.STAGES == STAGES


# --- mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "rooms_demo", "--from", "trian"), "error: Unknown stage `trian`, did you mean `train`?"),
        (("run", "rooms_demo", "--until", "ship"), "error: Unknown stage `ship`."),
        (
            ("run", "rooms_demo", "--from", "bench", "--until", "train"),
            "error: Expected `--from` to come before `--until`, but got bench and train.\n",
        ),
        (("train", "rooms_dmo"), "error: Unknown recipe `rooms_dmo`, did you mean `rooms_demo`?"),
        (
            ("validate", "nowhere.yaml"),
            "error: Recipe nowhere.yaml has 1 problem:\n  expected a YAML file, but there is no such file.\n",
        ),
        (
            ("train", "rooms_demo", "--set", "train.epoch=3", "--set", "data.counts.tets=1"),
            "error: Recipe rooms_demo has 2 problems:\n"
            "  `data.counts.tets`: unknown key, did you mean `test`? Known are train, validation, test.\n"
            "  `train.epoch`: unknown key, did you mean `epochs`? Known are epochs,",
        ),
        (("inspect", "backbone", "resnet18", "--granularity", "blok"), "error: Unknown granularity `blok`"),
        (
            ("inspect", "backbone", "resnet18", "--size", "96"),
            "error: Expected `--size` to be height x width in pixels, such as 96x128, but got 96.\n",
        ),
        (("inspect", "backbone", "resnet18", "--size", "0x128"), "error: Expected `--size` to be"),
    ],
)
def test_mistakes_are_one_message_and_status_2(call, pipeline, arguments, message):
    status, out, err = call(*arguments)
    assert (status, out, pipeline.calls) == (2, "", [])
    assert err.startswith(message)
    assert "Traceback" not in err


def test_yaml_mistakes_have_line_and_column(call, pipeline, tmp_path):
    (tmp_path / "bad.yaml").write_text("name: bad\ndata:\n  kind: rooms\n  kind: folder\n")
    status, _, err = call("validate", "bad.yaml")
    assert status == 2
    assert err == (
        "error: Recipe bad.yaml has 1 problem:\n"
        "  line 4, column 3: key `kind` stands here a second time, first on line 3.\n"
    )


def test_unknown_verbs_and_options_are_refused(call):
    assert call("trian", "rooms_demo")[0] == 2
    assert call("run", "rooms_demo", "--fast")[0] == 2
    assert call("run")[0] == 2


# --- what goes wrong while running


def test_our_own_errors_have_no_traceback(call, pipeline):
    pipeline.error = LomtError("Expected `x` to be y, but got z.")
    assert call("run", "rooms_demo")[::2] == (2, "error: Expected `x` to be y, but got z.\n")


def test_an_interrupted_run_says_how_it_goes_on(call, pipeline):
    pipeline.error = KeyboardInterrupt()
    status, _, err = call("run", "rooms_demo")
    assert status == 130
    assert err == "Interrupted. Run the same command again to go on from the last checkpoint.\n"


def test_an_interrupted_check_promises_nothing(call, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("lomt.recipe.load_recipe", interrupt)
    assert call("validate", "rooms_demo") == (130, "", "Interrupted.\n")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/x/model.safetensors"),
            "No space left on device: runs/x/model.safetensors",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device: runs/rooms_demo"),
        (PermissionError(errno.EACCES, "Permission denied", "/var/x"), "Permission denied: /var/x"),
        (OSError("the server hung up"), "the server hung up"),
        (ConnectionError(), "ConnectionError"),
    ],
)
def test_system_errors_name_the_file(call, pipeline, error, message):
    pipeline.error = error
    assert call("run", "rooms_demo")[::2] == (2, f"error: {message}\n")


def test_an_unreadable_recipe_is_named(call, tmp_path, monkeypatch):
    def refuse(path, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / "secret.yaml").touch()
    monkeypatch.setattr("pathlib.Path.read_text", refuse)
    assert call("validate", "secret.yaml")[::2] == (2, "error: Permission denied: secret.yaml\n")


def test_details_of_mended_errors_are_in_the_most_verbose_log(call, pipeline):
    pipeline.error = OSError(errno.ENOSPC, "No space left on device")
    _, _, err = call("run", "rooms_demo", "-vv")
    assert "Traceback (most recent call last)" in err
    assert err.endswith("error: No space left on device: runs/rooms_demo\n")


def test_unexpected_errors_keep_their_traceback(pipeline):
    pipeline.error = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError, match="a bug"):
        app(["run", "rooms_demo"], prog_name="lomt")


# --- verbs that only look


def test_validate_says_what_is_valid(call):
    assert call("validate", "rooms_demo", "--set", "seed=3") == (
        0,
        "Recipe rooms_demo is valid: segmentation, depth, normals, edges on resnet18.\n",
        "",
    )


def test_recipes_lists_the_shipped_ones(call):
    status, out, _ = call("recipes")
    lines = out.splitlines()
    assert status == 0
    assert lines[0].split() == ["recipe", "purpose"]
    assert [line.split()[0] for line in lines[1:]] == sorted(line.split()[0] for line in lines[1:])
    assert any(line.startswith("rooms_demo") and "synthetic rooms" in line for line in lines)


def test_recipes_without_any_say_so(call, monkeypatch):
    monkeypatch.setattr("lomt.recipe.shipped_recipes", list)
    assert call("recipes")[::2] == (
        2,
        "error: There are no shipped recipes in this installation. Reinstall lomt, or give a file.\n",
    )


def test_recipes_prints_the_schema(call):
    schema = json.loads(call("recipes", "--schema")[1])
    assert schema["title"] == "Recipe"
    assert schema["properties"]["name"]["type"] == "string"


def test_inspect_lists_layers(call):
    status, out, _ = call("inspect", "backbone", "resnet18", "--output-stride", "8", "--size", "64x64")
    first, heading, *rows = out.splitlines()
    assert status == 0
    assert first == "resnet18 at 64x64; params and MACs are those of the backbone cut after the layer."
    assert heading.split() == ["layer", "kind", "channels", "stride", "params", "MACs", "bypassable"]
    assert rows[0].split()[:5] == ["layer1.0", "block", "64", "4", "83,520"]
    assert rows[-1].split()[:4] == ["layer4.1", "block", "512", "8"]


def test_inspect_prints_json(call):
    _, out, _ = call("inspect", "backbone", "resnet18", "--granularity", "all", "--json")
    layers = {layer["name"]: layer for layer in json.loads(out)}
    assert layers["layer1.0"]["params"] == 83520
    assert {"layer1", "layer1.0", "layer1.0.conv1"} <= set(layers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet_18",), "error: Unknown backbone `resnet_18`, did you mean"),
        (("resnet18", "--output-stride", "7"), "error: Expected `options` and `output_stride` of backbone"),
    ],
)
def test_inspect_refuses_what_cannot_be_built(call, arguments, message):
    status, out, err = call("inspect", "backbone", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith(message)


def test_granularities_are_those_of_the_models():
    from typing import get_args

    from lomt.models import Granularity

    assert get_args(Granularity) == GRANULARITIES


def test_version(call):
    assert call("--version") == (0, f"lomt {lomt.__version__}\n", "")


# --- help


@pytest.mark.parametrize("verb", VERBS)
def test_every_help_ends_with_an_example_that_works(call, pipeline, verb):
    status, text, _ = call(*verb.split(), "--help")
    assert status == 0
    last = [line for line in _plain(text).splitlines() if line.strip()][-1]
    program, *example = shlex.split(last.partition("Example: ")[2])
    assert program == "lomt"
    assert " ".join(example).startswith(verb)
    assert call(*example)[0] == 0
    assert len(last.strip()) <= 78


def test_the_main_help_lists_every_verb(call):
    _, text, _ = call("--help")
    for verb in ["run", *STAGES, "verify", "cost", "validate", "recipes", "inspect"]:
        assert re.search(rf"^\W*{verb} ", _plain(text), re.MULTILINE)


def test_help_imports_nothing_heavy_and_answers_at_once():
    code = (
        "import sys, typer; known = set(sys.modules); import lomt.cli; new = set(sys.modules) - known;"
        "assert not {'torch', 'timm', 'pydantic', 'numpy', 'yaml', 'rich.progress'} & new, new;"
        "assert not {'torch', 'timm', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "lomt.cli", "--help"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def test_a_reader_that_goes_away_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "lomt.cli", "recipes", "--schema"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.wait(timeout=60) == 1
    assert process.stderr.read() == b""
    process.stderr.close()


def test_no_recipe_depends_on_where_it_is_started(call, pipeline, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "mine",
                "data": {"kind": "rooms", "size": [64, 64]},
                "tasks": {"depth": {"kind": "depth"}},
                "model": {"backbone": {"name": "resnet18"}},
                "train": {"epochs": 1, "optimizer": {"lr": 0.1}},
            }
        )
    )
    assert call("run", str(tmp_path / "mine.yaml"))[0] == 0
    assert pipeline.calls[0][1] == "runs/mine"


def _plain(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
