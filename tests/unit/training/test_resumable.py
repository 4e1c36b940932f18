"""What a training's parts store and take up again; whole trainings that resume are in test_trainer.py."""

import pytest
import torch

from lomt.training import OptimizerOptions
from lomt.training.live_tasks import LiveTasks
from lomt.training.resumable import Position, Resumable
from lomt.training.schedules import Patience, PlateauFactor
from lomt.training.weighting import make_weighting

TASKS = ("depth", "segmentation")


@pytest.fixture
def make_parts(make_model):
    """Return a function that makes the parts of a training, two optimizer steps in."""

    def make(seed, plateau=True):
        model = make_model(seed)
        weighting = make_weighting("uncertainty", dict.fromkeys(TASKS, 1.0))
        optimizer = OptimizerOptions().build(model, list(weighting.parameters()))
        for _ in range(2):
            optimizer.zero_grad()
            outputs = model(torch.randn(2, 3, 8, 12))
            losses = {task: output.square().mean() for task, output in outputs.items()}
            weighting.observe(losses)
            sum(losses.values()).backward()
            optimizer.step()
        position = Position(torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.int64))
        live = LiveTasks(model, optimizer, TASKS)
        return Resumable(
            model,
            weighting,
            optimizer,
            live,
            Patience(3),
            PlateauFactor(0.5, 2) if plateau else None,
            None,
            position,
        )

    return make


@pytest.mark.parametrize("retired", [(), ("segmentation",)])
@pytest.mark.parametrize("plateau", [True, False])
def test_other_parts_take_up_all_of_it(make_parts, retired, plateau):
    parts = make_parts(0, plateau)
    parts.live.retire(retired)
    at = parts.position
    at.epoch, at.batch, at.step, at.stop = 2, 3, 19, "enough"
    at.sums += torch.tensor([0.5, 2.0])
    at.taken += torch.tensor([3, 1])
    at.best = {"backbone.0.bias": torch.randn(8)}
    parts.patience.is_over(0.25)
    stored = parts.state()
    drawn = torch.rand(3)

    others = make_parts(1, plateau)
    others.restore(stored)

    assert torch.equal(torch.rand(3), drawn)
    again = others.state()
    assert again.facts == stored.facts
    assert set(again.tensors) == set(stored.tensors)
    assert any(name.startswith("optimizer.model.backbone") for name in stored.tensors)
    assert any(name.startswith("optimizer.weighting.") for name in stored.tensors)
    assert any(name.startswith("retired.segmentation.") for name in stored.tensors) == bool(retired)
    for name, value in stored.tensors.items():
        assert name.startswith("random.") or torch.equal(again.tensors[name], value), name
