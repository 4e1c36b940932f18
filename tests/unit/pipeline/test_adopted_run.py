"""The user's own model through the whole pipeline."""

import json

import pytest
import torch
from safetensors.torch import save_file

from lomt.branching import DecoderInput
from lomt.errors import LomtError, RecipeError
from lomt.models import AdoptedModel, load_model
from lomt.pipeline import run
from lomt.pipeline.context import open_context
from lomt.pipeline.decoder_inputs import locate_inputs
from lomt.pruning.storage import load
from lomt.recipe import load_recipe
from tests.reference import own_models
from tests.unit.pipeline.messages import Messages
from tests.unit.pipeline.tiny import RECIPE

PRUNE = "prune={macs: 0.6, divisor: 1}"
OWN = """model={
    factory: 'tests.reference.own_models:TwoUNets', factory_options: {classes: CLASSES}, backbone: encoder,
    outputs: {segmentation: '0', depth: '1'}}"""


def recipe(weights=None, *overrides, classes=None):
    own = OWN.replace("CLASSES", str(classes or number_of_classes()))
    more = () if weights is None else (f"model.weights={weights}",)
    return load_recipe(str(RECIPE), (own, *more, *overrides))


def number_of_classes():
    from lomt.data import RoomsDataset

    return RoomsDataset(1).targets["segmentation"].out_channels


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("own") / "own.safetensors"
    save_file(own_models.TwoUNets(classes=number_of_classes()).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def finished(weights, tmp_path_factory):
    out, messages = tmp_path_factory.mktemp("runs") / "own", Messages()
    summary = run(recipe(weights, PRUNE), out, progress=messages)
    return out, summary, messages.texts


def test_a_trained_model_is_taken_as_it_is(finished, weights):
    out, _, texts = finished
    assert "train: the model is trained already" in texts
    dense = load_model(out / "dense")
    model = own_models.TwoUNets(classes=number_of_classes())
    from safetensors.torch import load_file

    model.load_state_dict(load_file(weights))
    images = torch.rand(2, 3, 32, 48)
    wanted = torch.nn.functional.interpolate(model.eval()(images)[1], size=(32, 48), mode="bilinear")
    assert torch.equal(dense(images)["depth"], wanted)


def test_every_stage_runs_to_verified_files(finished):
    out, summary, _ = finished
    assert json.loads((out / "deploy" / "verification.json").read_text())["passed"]
    for name in ("dense", "rewired", "pruned"):
        assert isinstance(load(out / name), AdoptedModel), name
    costs = json.loads((out / "deploy" / "cost.json").read_text())
    assert costs["model.onnx"]["macs"] < 0.65 * costs["rewired.onnx"]["macs"]
    assert set(summary.branch_points) == {"segmentation", "depth"}
    assert "depth" in str(summary)


def test_located_layers_come_with_what_each_input_will_read(finished):
    out, _, _ = finished
    text = (out / "locate" / "branch_points.yaml").read_text()
    depth = load(out / "rewired").decoders["depth"].reads
    kept = [name for name, layer in depth.items() if name == layer]
    assert f"its decoder goes on reading {', '.join(kept)}\n" in text
    for name, layer in depth.items():
        assert name == layer or f"its decoder reads {layer} in place of {name}, by an adapter; of it" in text
    for own in json.loads((out / "locate" / "profiles.json").read_text())["inputs"]["depth"]:
        assert depth[own["made_for"]] == own["layer"]
        assert own["layer"] == max(own["explained"], key=own["explained"].get, default=own["layer"])


def test_an_input_goes_where_most_of_it_can_be_had(tmp_path):
    own = f"""model={{
        factory: 'tests.reference.own_models:Narrow', factory_options: {{classes: {number_of_classes()}}},
        backbone: [first, second, third], outputs: {{segmentation: '0', depth: '1'}}}}"""
    context = open_context(load_recipe(str(RECIPE), (own,)), tmp_path / "own")

    found = locate_inputs(context, {"segmentation": "second", "depth": "second"})

    assert found["segmentation"] == (DecoderInput("second", "second"),)
    (depth,) = found["depth"]
    assert (depth.made_for, depth.layer) == ("third", "first")
    assert set(depth.explained) == {"first", "second"}


def test_what_is_up_to_date_is_skipped_until_the_weights_change(finished, weights, tmp_path):
    out, _, _ = finished
    messages = Messages()
    run(recipe(weights, PRUNE), out, progress=messages)
    assert not messages.texts
    entries = own_models.TwoUNets(classes=number_of_classes()).state_dict()
    other = tmp_path / "other.safetensors"
    save_file(entries, other)
    run(recipe(other), out, last="train", progress=messages)
    assert messages.texts


def test_without_weights_the_model_is_trained(tmp_path):
    messages = Messages()
    run(recipe(), tmp_path / "own", last="train", progress=messages)
    assert "train: dense multitask network" in messages.texts


def test_given_branch_points_are_read_through_adapters(weights, tmp_path):
    points = "rewire.branch_points={segmentation: encoder.layer2.1, depth: encoder.layer2.0}"
    run(recipe(weights, points), tmp_path / "own", last="rewire")
    network = load_model(tmp_path / "own" / "rewired")
    assert network.branch_points == {"segmentation": "encoder.layer2.1", "depth": "encoder.layer2.0"}
    assert list(network.decoders["depth"].adapters) == ["2", "3"]


def test_single_inputs_are_read_where_they_are_told_to(weights, tmp_path):
    reads = "{encoder.layer3.1: encoder.layer1.1, encoder.layer2.1: encoder.layer2.0}"
    points = f"rewire.branch_points={{segmentation: encoder.layer2.1, depth: {reads}}}"
    run(recipe(weights, points), tmp_path / "own", last="rewire")
    network = load_model(tmp_path / "own" / "rewired")
    assert network.branch_points == {"segmentation": "encoder.layer2.1", "depth": "encoder.layer2.0"}
    assert list(network.decoders["depth"].reads.values())[-2:] == ["encoder.layer2.0", "encoder.layer1.1"]
    assert json.loads((tmp_path / "own" / "rewired" / "metrics.json").read_text())["branch_points"] == (
        network.branch_points
    )


@pytest.mark.parametrize(
    ("reads", "text"),
    [
        ("{encoder.layer3.1: encoder.layer9}", "Unknown layer of task `depth` `encoder.layer9`"),
        ("{encoder.layer3.0: encoder.layer2.1}", "Unknown input of decoder `depth` `encoder.layer3.0`"),
    ],
)
def test_inputs_and_layers_that_there_are_not_are_named(weights, tmp_path, reads, text):
    points = f"rewire.branch_points={{segmentation: encoder.layer2.1, depth: {reads}}}"
    with pytest.raises(LomtError, match=text):
        run(recipe(weights, points), tmp_path / "own", last="rewire")


def test_predictions_that_do_not_fit_the_data_are_refused(tmp_path):
    with pytest.raises(LomtError, match=r"`segmentation` to have the shape \(batch, \d+, height, width\)"):
        run(recipe(classes=3), tmp_path / "own", last="train")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("model={backbone: encoder}", "`model.factory`: a factory is needed"),
        ("model={decoder: {width: 8}}", "`model.backbone.name`: a value is needed"),
        ("model.factory='tests.reference.own_models:TwoUNet'", "did you mean `TwoUNets`"),
        ("model.factory='nowhere:build'", "no module `nowhere`"),
        ("model.backbone={name: resnet18}", "`model.backbone.name`: only for a backbone of timm"),
        ("model.outputs={segmentation: '0'}", "there is none for depth"),
        ("model.outputs.depht='1'", "unknown task `depht`, did you mean `depth`"),
        ("model.decoder.width=8", "`model.decoder`: only for a backbone of timm"),
        ("locate.method=joint", "`locate.method`: joint needs a backbone of timm"),
        ("locate.granularity=conv", "`locate.granularity`: conv needs a backbone of timm"),
    ],
)
def test_contradictions_in_the_recipe(change, text):
    with pytest.raises(RecipeError, match=text):
        recipe(None, change)
