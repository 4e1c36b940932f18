"""Models that nobody here wrote: taken apart, put together again, and through the pipeline."""

import json

import pytest
import torch

from lomt import export_onnx
from lomt.data import RoomsDataset
from lomt.models import AdoptedSpec, adopt
from lomt.pipeline import run
from lomt.pruning.storage import load
from lomt.recipe import parse_recipe
from tests.reference import foreign_models
from tests.reference.foreign_models import FOREIGN, INPUTS

pytest.importorskip("segmentation_models_pytorch", reason="segmentation_models_pytorch is not installed")

BACKBONES = {
    "timm ViT": ("vit",),
    "smp Unet, one decoder for both": ("encoder", "decoder"),
    "torchvision resnet18 and timm resnet10t, two inputs": ("colour", "geometry", "fuse"),
}


def backbone_of(name):
    return BACKBONES.get(name, ("backbone",) if name.startswith("torchvision") else ("encoder",))


@pytest.fixture(params=FOREIGN, ids=FOREIGN)
def name(request):
    return request.param


def test_its_tasks_are_rooms():
    assert RoomsDataset(1).targets["segmentation"].out_channels == foreign_models.CLASSES


@pytest.mark.slow
def test_the_split_is_right_and_the_network_bitwise_the_model(name):
    kind, options, size = FOREIGN[name]
    torch.manual_seed(0)
    model = kind(**options)
    inputs = INPUTS.get(name, {})
    given = [torch.randn(2, channels, *size) for channels in (3, *inputs.values())]
    adoption = adopt(model, given)
    assert adoption.backbone == backbone_of(name)
    assert not adoption.closed
    network = AdoptedSpec("none:none", dict.fromkeys(adoption.tasks, True), size, inputs=inputs).cut(adoption)
    model.train()
    torch.manual_seed(1)
    model(*given)  # dropout and statistics: the same random numbers, the same updates
    torch.manual_seed(1)
    images = torch.cat(given, 1)
    network.train()(images)
    expected, found = model.eval()(*given), network.eval()(images)
    assert all(torch.equal(found[task], value) for task, value in network(*given).items())
    for task, wanted in expected.items():
        if wanted.shape[-2:] != size:
            wanted = torch.nn.functional.interpolate(wanted, size=size, mode="bilinear", align_corners=False)
        assert torch.equal(found[task], wanted), task


@pytest.mark.slow
def test_it_is_located_rewired_pruned_to_half_and_exported(name, tmp_path):
    kind, options, size = FOREIGN[name]
    tasks = list(kind(**options).heads)
    recipe = parse_recipe(
        {
            "name": "foreign",
            "threads": 1,
            "data": {"kind": "rooms", "size": list(size), "counts": {"train": 16, "test": 4}},
            "tasks": {task: {"kind": task} for task in tasks},
            "model": {
                "factory": f"tests.reference.foreign_models:{kind.__name__}",
                "factory_options": options,
                "trained": True,
                "inputs": list(INPUTS.get(name, {})),
            },
            "train": {"epochs": 1, "batch_size": 8, "optimizer": {"lr": 1e-3}},
            "locate": {"lambdas": {"start": 0.3, "stop": 3.0, "count": 2}},
            "prune": {"macs": 0.5, "pruned_only": False, "train": {"epochs": 1}},
        }
    )
    run(recipe, tmp_path / "run", last="prune")
    pruned = load(tmp_path / "run" / "pruned").eval()
    assert set(pruned.branch_points) == set(tasks)
    plan = json.loads((tmp_path / "run" / "pruned" / "plan.json").read_text())
    assert plan["macs_after"] <= 0.5 * plan["macs_before"]
    export_onnx(
        pruned,
        torch.randn(1, 3 + sum(INPUTS.get(name, {}).values()), *size),
        tmp_path / "model.onnx",
        fixed_size=True,
    )  # raises unless verified
