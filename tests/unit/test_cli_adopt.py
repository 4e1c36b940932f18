import json

import pytest
import yaml
from typer.testing import CliRunner

from lomt.cli import app

OWN = "tests.reference.own_models"
SHAPE = ("--input", "1x3x64x96")


@pytest.fixture
def call():
    def invoke(*arguments):
        result = CliRunner().invoke(app, ["adopt", *arguments])
        return result.exit_code, result.output

    return invoke


def test_parts_layers_and_the_block_are_shown_and_written(call, tmp_path):
    file = tmp_path / "model.yaml"
    status, out = call(
        f"{OWN}:TwoUNets",
        *SHAPE,
        "--option",
        "classes=3",
        "--output",
        "parts=0",
        "--output",
        "depth=1",
        "--out",
        str(file),
    )
    assert status == 0, out
    block = yaml.safe_load(file.read_text())["model"]
    assert block == {
        "factory": f"{OWN}:TwoUNets",
        "factory_options": {"classes": 3},
        "backbone": "encoder",
        "outputs": {"parts": "0", "depth": "1"},
        "decoders": {"parts": ["up_parts", "parts"], "depth": ["up_depth", "depth"]},
    }
    assert "encoder.layer2.1" in out and "3x32x48" in out and f"Written to {file}." in out


def test_json_is_complete(call):
    status, out = call(f"{OWN}:SharedUNet", *SHAPE, "--json")
    found = json.loads(out)
    assert status == 0
    assert found["backbone"]["modules"] == ["encoder", "decoder"]
    assert found["decoders"]["depth"]["reads"] == ["decoder.ups.2"]
    assert yaml.safe_load(found["recipe"])["model"]["backbone"] == ["encoder", "decoder"]


def test_what_is_kept_whole_and_further_inputs_are_said(call):
    assert "Kept whole: encoder.layer2, because" in call(f"{OWN}:ValueDependent", *SHAPE)[1]
    status, out = call(f"{OWN}:TwoInputs", *SHAPE, "--input", "1x1x64x96")
    assert status == 0 and "takes 2 inputs (images, prior). Under `inputs` name the dataset's target" in out
    assert "inputs: [prior]" in out
    status, out = call(f"{OWN}:TwoInputs", *SHAPE, "--input", "1x1x32x48")
    assert status == 0 and "Recipes give images and maps of their size only" in out
    assert "inputs:" not in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((f"{OWN}:TwoUNets", *SHAPE, "--output", "depth"), "Expected `--output` to be TASK=PLACE"),
        ((f"{OWN}:TwoUNets", *SHAPE, "--output", "depth=7"), "it returns `0`, `1`"),
        ((f"{OWN}:DeepHeads", *SHAPE, "--backbone", "encodr"), "did you mean `encoder`"),
        ((f"{OWN}:DeepHeads", "--input", "images=1x3x64x96"), "Expected `--input` without names"),
        ((f"{OWN}:NoTensor", *SHAPE), "It can be pruned as it is with `lomt prune`."),
        (("nowhere:Net", *SHAPE), "no module `nowhere`"),
    ],
)
def test_mistakes_are_one_error(call, arguments, text):
    status, out = call(*arguments)
    assert status == 2
    assert text in " ".join(out.split())
    assert "Traceback" not in out
