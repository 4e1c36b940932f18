import pytest
import torch
from torch import nn

from lomt.sparsity import nested_soft_threshold
from lomt.training import (
    FeatureSelectionPath,
    OptimizerOptions,
    Trainer,
    TrainingOptions,
)
from tests.unit.killed_after import KilledAfter

TASKS = ("depth", "segmentation")
FACTORS = {"first": 0.5, "second": 1.0}


class Reader(nn.Module):
    """Two layers, and a projection of each for each task."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleDict(
            {"first": nn.Conv2d(3, 6, 3, padding=1), "second": nn.Conv2d(6, 4, 3, padding=1)}
        )
        self.weights = nn.ParameterDict(
            {"first": 0.1 * torch.randn(2, 3, 6), "second": 0.1 * torch.randn(2, 3, 4)}
        )
        self.heads = nn.ModuleDict({"depth": nn.Conv2d(3, 1, 1), "segmentation": nn.Conv2d(3, 2, 1)})

    def forward(self, images):
        first = self.layers["first"](images).relu()
        maps = {"first": first, "second": self.layers["second"](first).relu()}
        return {
            task: self.heads[task](
                sum(torch.einsum("wc,bchx->bwhx", self.weights[n][row], maps[n]) for n in maps)
            )
            for row, task in enumerate(TASKS)
        }


def trainer(loader, tasks, start=0.01, stop=1.0, epochs=3, kind="adamw", **options):
    model = Reader()
    path = FeatureSelectionPath(
        dict(model.weights.items()),
        FACTORS,
        TASKS,
        lambda_start=start,
        lambda_stop=stop,
        total_steps=3 * epochs,
    )
    chosen = TrainingOptions(epochs=epochs, optimizer=OptimizerOptions(kind=kind, lr=0.01), checkpoint_s=1e-9)
    return model, path, Trainer(model, tasks, loader, chosen, regularizer=path, **options)


def test_lambda_rises_and_all_die(make_loader, tasks):
    model, _, training = trainer(make_loader(), tasks, start=2.0**-10, stop=2.0**6, epochs=8)
    history = training.fit()

    assert [r["lambda"] for r in history][:2] == pytest.approx([2.0**-8, 2.0**-6])
    assert history[-1]["stop"] == "no task reads any layer any more"
    assert len(history) < 8
    assert history[-1]["alive_channels"] == {"depth": {}, "segmentation": {}}
    assert all(weight.count_nonzero() == 0 for weight in model.weights.values())


def test_survival_is_the_last_step_alive_over_all_steps(make_loader, tasks):
    _, path, training = trainer(make_loader(), tasks, start=1e-6, stop=1e-5)
    training.fit()

    assert path.survival() == {task: {"first": 1.0, "second": 1.0} for task in TASKS}


@pytest.mark.parametrize("step", [2, 3, 5])
def test_killed_and_resumed_ends_the_same(make_loader, tasks, tmp_path, step):
    whole, whole_path, training = trainer(make_loader(), tasks)
    training.fit()
    place = {"checkpoint": tmp_path / "c.checkpoint", "history": tmp_path / "history.jsonl"}
    _, _, training = trainer(make_loader(), tasks, progress=KilledAfter(step), **place)
    with pytest.raises(SystemExit):
        training.fit()
    model, path, training = trainer(make_loader(), tasks, **place)
    history = training.fit()

    assert all(torch.equal(v, model.state_dict()[n]) for n, v in whole.state_dict().items())
    assert path.survival() == whole_path.survival()
    assert [r["lambda"] for r in history] == pytest.approx([0.01 * 100 ** (i / 3) for i in (1, 2, 3)])


def test_step_is_the_proximal_one_of_its_optimizer(make_loader, tasks):
    """Under SGD in the Euclidean metric: what a step leaves, shrunk with lambda."""
    model, path, training = trainer(make_loader(24), tasks, epochs=1, start=0.25, stop=0.25, kind="sgd")
    plain = Reader()
    chosen = TrainingOptions(epochs=1, optimizer=OptimizerOptions(kind="sgd", lr=0.01))
    Trainer(plain, tasks, make_loader(24), chosen).fit()
    training.fit()

    rate = 0.01
    for name, factor in FACTORS.items():
        _, width, channels = plain.weights[name].shape
        strength = rate * 0.25 * factor
        expected = nested_soft_threshold(
            plain.weights[name], strength * width**0.5, strength * (width * channels) ** 0.5
        )
        assert torch.allclose(model.weights[name], expected, atol=1e-6)
    assert path.lasso.metric == "euclidean"


def test_under_adam_the_metric_is_its_own(make_loader, tasks):
    _, path, training = trainer(make_loader(24), tasks, epochs=1)
    training.fit()

    assert path.lasso.metric == "adam"
