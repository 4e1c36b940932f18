import numpy as np
import pytest
import torch

from lomt.training import (
    OptimizerOptions,
    RunningMoments,
    SampleProbe,
    Trainer,
    TrainingOptions,
)
from tests.unit.killed_after import KilledAfter


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_moments_are_numpys(offset):
    """Far from 0 as well, where sums of squares lose all digits."""
    values = torch.rand(7, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + offset
    moments = RunningMoments()
    for value in values:
        moments.add(value)

    assert moments.count == 7
    assert moments.mean.numpy() == pytest.approx(np.mean(values.numpy(), axis=0), rel=1e-12)
    assert moments.deviation.numpy() == pytest.approx(np.std(values.numpy(), axis=0, ddof=1), rel=1e-8)


def test_one_value_has_no_deviation_and_missing_ones_stay_so():
    moments = RunningMoments()
    moments.add(torch.tensor([[1.0, torch.nan]], dtype=torch.float64))
    assert moments.deviation.isnan().all()
    moments.add(torch.tensor([[3.0, torch.nan]], dtype=torch.float64))

    assert moments.mean[0, 0] == 2
    assert moments.mean.isnan().tolist() == moments.deviation.isnan().tolist() == [[False, True]]


def red(predictions, batch):
    return torch.stack([batch["image"][:, 0].mean((1, 2)), predictions["depth"].mean((1, 2, 3))])


@pytest.mark.parametrize("killed_at", [2, 5, 9])
def test_resumed_equals_uninterrupted(tmp_path, make_model, make_loader, tasks, killed_at):
    def train(model, folder, progress=None):
        probe = SampleProbe(red, make_loader(), 2, lambda images: images)
        chosen = TrainingOptions(epochs=3, optimizer=OptimizerOptions(lr=0.03), checkpoint_s=1e-9)
        checkpoint = folder / "train.checkpoint"
        Trainer(
            model, tasks, make_loader(), chosen, regularizer=probe, checkpoint=checkpoint, progress=progress
        ).fit()
        return probe.moments

    whole = train(make_model(), tmp_path / "whole")
    with pytest.raises(SystemExit):
        train(make_model(), tmp_path / "cut", KilledAfter(killed_at))
    again = train(make_model(seed=1), tmp_path / "cut")

    assert whole.mean.shape == (2, 16)
    assert again.count == whole.count == 3
    assert torch.equal(again.mean, whole.mean)
    assert torch.equal(again.deviation, whole.deviation)
    # The same samples every time, whatever the order of training.
    assert whole.deviation[0].abs().max() < 1e-12
    assert whole.deviation[1].min() > 0


def test_training_is_not_changed(make_model, make_loader, tasks):
    results = []
    for probe in (None, SampleProbe(red, make_loader(), 2, lambda images: images)):
        model = make_model()
        Trainer(model, tasks, make_loader(), TrainingOptions(epochs=2), regularizer=probe).fit()
        results.append(model.state_dict())

    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())
