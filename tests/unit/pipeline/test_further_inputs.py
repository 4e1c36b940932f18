"""A user's model that takes more than the image: the rest comes from the dataset, as channels of the image."""

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

from lomt.data import RoomsDataset
from lomt.errors import LomtError, RecipeError
from lomt.models import load_model
from lomt.pipeline import run
from lomt.pipeline.model_source import open_source
from lomt.pipeline.parts import Parts
from lomt.recipe import load_recipe
from tests.reference import own_models
from tests.unit.pipeline.tiny import RECIPE

CLASSES = RoomsDataset(1).targets["segmentation"].out_channels
OWN = f"""model={{
    factory: 'tests.reference.own_models:TwoInputs', factory_options: {{classes: {CLASSES}}}, inputs: [edges],
    outputs: {{segmentation: parts, depth: depth}}}}"""
PRUNE = "prune={macs: 0.6, divisor: 1, pruned_only: false}"


def recipe(*overrides):
    return load_recipe(str(RECIPE), (OWN, *overrides))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    model = own_models.TwoInputs(classes=CLASSES)
    with torch.no_grad():
        model.heads["depth"][-1].bias += 3
    path = tmp_path_factory.mktemp("own") / "own.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def finished(weights, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "own"
    run(recipe(f"model.weights={weights}", PRUNE), out)
    return out


def test_the_dense_network_is_the_model_on_both_inputs(finished, weights):
    images = next(Parts(recipe()).loader("test", recipe().train).epoch(0))["image"]
    model = own_models.TwoInputs(classes=CLASSES)
    model.load_state_dict(load_file(weights))
    wanted = model.eval()(images[:, :3], images[:, 3:])["depth"]
    wanted = torch.nn.functional.interpolate(wanted, size=(32, 48), mode="bilinear", align_corners=False)
    assert torch.equal(load_model(finished / "dense")(images)["depth"], wanted)


def test_the_further_channel_is_the_target_as_it_is():
    parts = Parts(recipe("data.mean=[0.5, 0.5, 0.5]", "data.std=[0.2, 0.2, 0.2]"))
    batch = next(parts.loader("train", recipe().train).epoch(0))
    assert batch["image"].shape[1] == parts.channels == 4
    assert torch.equal(parts.prepared(batch["image"])[:, 3:], batch["edges"])
    assert torch.equal(parts.prepared(batch["image"])[:, :3], (batch["image"][:, :3] - 0.5) / 0.2)


def test_its_files_take_one_image_of_four_channels(finished):
    (given,) = onnxruntime.InferenceSession(finished / "deploy" / "model.onnx").get_inputs()
    assert given.shape[1] == 4
    for uses_data in (True, False):
        source = open_source(str(finished), uses_data=uses_data)
        assert source.images.shape[1] == 4
        assert set(source.model(source.images)) == {"segmentation", "depth"}


def test_without_labels_the_original_is_asked_with_both(weights, tmp_path):
    run(
        recipe(f"model.weights={weights}", "data.targets=original", PRUNE),
        tmp_path / "own",
        last="rewire",
    )
    parts = Parts(recipe(f"model.weights={weights}", "data.targets=original"))
    batch = next(parts.loader("train", recipe().train, is_augmented=False).epoch(0))
    with torch.no_grad():
        expected = parts.original(parts.prepared(batch["image"]))["depth"]
    assert torch.allclose(batch["depth"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("model.inputs=[depth]", "`depth` cannot be an input, because task `depth` is to predict it"),
        ("model.inputs=[image]", "the image is always the first input"),
        ("model.inputs=[edges, edges]", "`edges` is named twice"),
        ("tasks.depth.target=edges", "`edges` cannot be an input, because task `depth`"),
    ],
)
def test_contradictions_in_the_recipe(change, text):
    with pytest.raises(RecipeError, match=text):
        recipe(change)


def test_only_for_a_model_of_ones_own():
    with pytest.raises(RecipeError, match=r"`model.inputs`: only for a model of your own"):
        load_recipe(str(RECIPE), ("model.inputs=[edges]",))


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ("[egdes]", "did you mean `edges`"),
        ("[edges, normals]", r"to take 3 inputs.*takes 2 \(images, prior\)"),
        ("[]", r"to take 1 input.*takes 2 \(images, prior\).*model.inputs"),
    ],
)
def test_inputs_that_are_not_the_models(inputs, text, tmp_path):
    with pytest.raises(LomtError, match=text):
        run(recipe(f"model.inputs={inputs}"), tmp_path / "own", last="train")


def test_classes_are_no_input(tmp_path):
    with pytest.raises(LomtError, match=r"`segmentation` of `model.inputs` to be a map of numbers"):
        run(
            recipe(
                "model.inputs=[segmentation]", "tasks={depth: {kind: depth}}", "model.outputs={depth: depth}"
            ),
            tmp_path / "own",
            last="train",
        )
