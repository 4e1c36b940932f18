from itertools import pairwise

import pytest
import torch
from torch import nn

from lomt.errors import UnknownNameError
from lomt.pruning.task_part import select_task_part
from lomt.structure import trace_structure


class Fork(nn.Module):
    """Four shared channels, of which `left` reads 0 and 2 and `right` reads 1 and 3; `deep` is left's alone."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.deep = nn.Conv2d(4, 3, 1)
        self.left, self.right = nn.Conv2d(3, 2, 1), nn.Conv2d(4, 1, 1)
        with torch.no_grad():
            self.deep.weight[:, [1, 3]] = 0
            self.right.weight[:, [0, 2]] = 0

    def forward(self, images):
        features = self.norm(self.stem(images))
        return {"left": self.left(self.deep(features)), "right": self.right(features)}


IMAGES = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(1))


def losses(model):
    for images in IMAGES.split(2):
        yield {task: output.square().mean() for task, output in model(images).items()}


def select(target, share, model=None):
    model = (model or Fork()).eval()
    return select_task_part(trace_structure(model, IMAGES[:1]), model, losses, target, share), model


@pytest.mark.parametrize(("target", "channels"), [("left", [0, 2]), ("right", [1, 3])])
def test_the_channels_that_the_target_reads_are_chosen_and_what_is_its_own(target, channels):
    part, model = select(target, 0.5)
    own = {"left": ("deep", "left"), "right": ("right",)}[target]
    assert part.shared == {"stem": (2, 4)}
    for name, tensor in model.state_dict().items():
        layer = name.partition(".")[0]
        expected = torch.zeros(tensor.shape, dtype=torch.bool)
        if layer in own:
            expected[...] = True
        elif tensor.ndim and layer in ("stem", "norm"):
            expected[channels] = True
        assert part.masks.get(name, torch.zeros(tensor.shape, dtype=torch.bool)).equal(expected), name


def test_more_share_adds_channels_and_takes_none_away():
    masks = [select("left", share)[0].masks for share in (0, 0.25, 0.5, 0.75, 1)]
    counts = [int(own["stem.bias"].sum()) if "stem.bias" in own else 0 for own in masks]
    assert counts == [0, 1, 2, 3, 4]
    for fewer, more in pairwise(masks[1:]):
        assert not (fewer["stem.weight"] & ~more["stem.weight"]).any()


def test_the_model_stays_as_it_was():
    model = Fork()
    model.stem.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    _, after = select("left", 0.5, model)
    assert all(value.equal(before[name]) for name, value in after.state_dict().items())
    assert [p.requires_grad for p in after.parameters()] == [False] + [True] * 9
    assert all(p.grad is None for p in after.parameters())


def test_zeros_can_be_left_out():
    part, model = select("left", 0.5)
    masks = part.without_zeros(model).masks
    assert masks["deep.weight"].flatten(1).tolist() == [[True, False, True, False]] * 3
    assert masks["deep.bias"].all()


def test_the_record_says_what_is_frozen():
    part, model = select("left", 0.5)
    assert part.to_dict(model) == {
        "target": "left",
        "parameters": {"updated": 2 * (3 + 1 + 2) + 15 + 8, "of": 4 * (3 + 1 + 2) + 15 + 8 + 5},
        "shared_channels": {"stem": [2, 4]},
        "frozen": ["right.weight", "right.bias"],
        "partly_frozen": ["stem.weight", "stem.bias", "norm.weight", "norm.bias"],
    }


def test_mistakes_are_named():
    with pytest.raises(UnknownNameError, match="Unknown target task `depth`.*left, right"):
        select("depth", 0.5)
    with pytest.raises(ValueError, match="Expected `share` to be from 0 to 1, but got 1.5"):
        select("left", 1.5)
    model = Fork().eval()
    structure = trace_structure(model, IMAGES[:1])
    only_right = [{"right": model(IMAGES)["right"].square().mean()}]
    with pytest.raises(UnknownNameError, match="loss of task `left`"):
        select_task_part(structure, model, only_right, "left", 0.5)
