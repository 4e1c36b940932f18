import json
import math
import os
import signal
import threading

import pytest
import torch

from lomt.errors import TrainingError
from lomt.sparsity import measure_sparsity
from lomt.training import (
    GroupLassoPath,
    OptimizerOptions,
    ScheduleOptions,
    SilentProgress,
    Trainer,
    TrainingOptions,
    evaluate,
)
from tests.unit.killed_after import KilledAfter


def options(**changes):
    return TrainingOptions(**{"epochs": 3, "optimizer": OptimizerOptions(lr=0.03), **changes})


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_losses_fall(make_model, make_loader, tasks):
    history = Trainer(make_model(), tasks, make_loader(), options(epochs=6)).fit()

    assert history[-1]["train_loss"]["depth"] < 0.5 * history[0]["train_loss"]["depth"]
    assert history[-1]["train_loss"]["segmentation"] < history[0]["train_loss"]["segmentation"]


def test_the_backbone_can_learn_more_slowly(make_model, make_loader, tasks):
    model, before = make_model(), make_model()
    slow = OptimizerOptions(kind="sgd", lr=0.03, momentum=0.0, weight_decay=0.0, backbone_lr=0.25)
    groups = slow.build(model, []).param_groups
    rates = {p: group["lr"] for group in groups for p in group["params"]}
    assert set(rates) == set(model.parameters())
    assert {rates[p] for p in model.backbone.parameters()} == {0.25 * 0.03}
    assert {rates[p] for p in model.decoders.parameters()} == {0.03}

    still = OptimizerOptions(lr=0.03, backbone_lr=0.0)
    Trainer(model, tasks, make_loader(), options(epochs=1, optimizer=still)).fit()
    parameters = dict(before.named_parameters())
    for name, value in model.named_parameters():
        assert torch.equal(value, parameters[name]) == name.startswith("backbone."), name


def test_accumulation_takes_the_same_step_as_one_large_batch(make_model, make_loader, tasks):
    """Without batch norm, whose statistics are those of a micro-batch; valid pixels differ between micro-batches."""
    results = []
    for batch_size, steps in ((8, 1), (2, 4)):
        model = make_model().eval()
        model.backbone[1] = torch.nn.Identity()
        chosen = options(
            epochs=1,
            accumulation_steps=steps,
            optimizer=OptimizerOptions(kind="sgd", lr=0.1),
            schedule=ScheduleOptions("constant"),
        )
        Trainer(model, tasks, make_loader(batch_size), chosen).fit()
        results.append(weights(model))

    for name in results[0]:
        assert torch.allclose(results[0][name], results[1][name], atol=1e-6), name


def test_evaluation_of_halves_is_that_of_the_whole(make_model, make_loader, tasks):
    model = make_model().eval()
    whole = evaluate(model, make_loader(24, shuffle=False).epoch(0), tasks)
    parts = evaluate(model, make_loader(5, shuffle=False).epoch(0), tasks)

    for task in tasks:
        assert parts.losses[task] == pytest.approx(whole.losses[task], rel=1e-5)
        assert parts.metrics[task] == pytest.approx(whole.metrics[task], rel=1e-5)


@pytest.mark.parametrize("killed_at", [2, 4, 7, 9])
@pytest.mark.parametrize("weighting", ["fixed", "uncertainty", "adaptive"])
def test_resumed_equals_uninterrupted(tmp_path, make_model, make_loader, tasks, killed_at, weighting):
    chosen = options(weighting=weighting, checkpoint_s=1e-9, keep="best")

    def trainer(model, folder, progress=None):
        return Trainer(
            model,
            tasks,
            make_loader(flip=0.5),
            chosen,
            validation=make_loader(shuffle=False),
            checkpoint=folder / "train.checkpoint",
            history=folder / "history.jsonl",
            progress=progress,
        )

    whole = make_model()
    records = trainer(whole, tmp_path / "whole").fit()
    with pytest.raises(SystemExit):
        trainer(make_model(), tmp_path / "cut", KilledAfter(killed_at)).fit()
    resumed = make_model(seed=1)
    records_again = trainer(resumed, tmp_path / "cut").fit()

    assert_same_weights(weights(whole), weights(resumed))
    for first, second in zip(records, records_again, strict=True):
        assert first["train_loss"] == second["train_loss"]
    lines = (tmp_path / "cut" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2]


@pytest.mark.parametrize("metric", ["adam", "euclidean"])
def test_resumed_sparse_training_equals_uninterrupted(tmp_path, make_model, make_loader, tasks, metric):
    def run(model, folder, progress=None):
        path = GroupLassoPath(model.backbone, (0.01, 0.1), epochs_per_lambda=2, metric=metric)
        trainer = Trainer(
            model,
            tasks,
            make_loader(),
            options(epochs=path.epochs, checkpoint_s=1e-9),
            regularizer=path,
            checkpoint=folder / "train.checkpoint",
            progress=progress,
        )
        return trainer.fit()

    whole, resumed = make_model(), make_model(seed=1)
    run(whole, tmp_path / "whole")
    with pytest.raises(SystemExit):
        run(make_model(), tmp_path / "cut", KilledAfter(8))
    run(resumed, tmp_path / "cut")

    assert_same_weights(weights(whole), weights(resumed))


def test_strong_lambda_kills_groups_and_zero_lambda_none(make_model, make_loader, tasks):
    found = {}
    for lambda_ in (0.0, 10.0):
        model = make_model()
        path = GroupLassoPath(model.backbone, (lambda_,), epochs_per_lambda=2)
        Trainer(model, tasks, make_loader(), options(epochs=path.epochs), regularizer=path).fit()
        found[lambda_] = measure_sparsity(model.backbone).total.sparsity

    assert found == {0.0: 0.0, 10.0: 1.0}


def test_early_stopping_ends_and_best_is_kept(make_model, make_loader, tasks):
    model = make_model()
    chosen = options(epochs=20, early_stopping=2, keep="best", optimizer=OptimizerOptions(lr=3.0))
    trainer = Trainer(model, tasks, make_loader(), chosen, validation=make_loader(shuffle=False))
    history = trainer.fit()
    losses = [sum(r["validation_loss"].values()) for r in history]

    assert len(history) < 20
    again = evaluate(trainer.predict, make_loader(shuffle=False).epoch(0), tasks)
    assert again.loss == pytest.approx(min(losses), rel=1e-5)


class Poisoned:
    """A loader whose images are not finite from the third batch on."""

    wait_s = 0.0
    batches_per_epoch = 3

    def __init__(self, loader):
        self._loader = loader

    def epoch(self, epoch, start=0):
        for number, batch in enumerate(self._loader.epoch(epoch, start), start):
            if epoch == 1 and number == 2:
                batch["image"] = batch["image"] * math.nan
            yield batch


def test_nan_loss_names_task_and_step_and_keeps_the_checkpoint(tmp_path, make_model, make_loader, tasks):
    trainer = Trainer(
        make_model(),
        tasks,
        Poisoned(make_loader()),
        options(),
        checkpoint=tmp_path / "train.checkpoint",
    )
    with pytest.raises(
        TrainingError, match=r"loss of task `depth` to be finite, but it is not at step 5 .*kept"
    ):
        trainer.fit()

    model = make_model(seed=1)
    Trainer(model, tasks, make_loader(), options(epochs=1), checkpoint=tmp_path / "train.checkpoint").fit()
    assert all(torch.isfinite(v).all() for v in model.state_dict().values())


class InterruptedAt(SilentProgress):
    def __init__(self, step):
        self.left = step

    def advance(self, count=1, **figures):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_saves_the_step_and_leaves_no_thread(tmp_path, make_model, make_loader, tasks):
    before = threading.active_count()
    checkpoint = tmp_path / "train.checkpoint"
    with pytest.raises(KeyboardInterrupt):
        Trainer(
            make_model(), tasks, make_loader(), options(), checkpoint=checkpoint, progress=InterruptedAt(2)
        ).fit()
    resumed, whole = make_model(seed=1), make_model()
    Trainer(resumed, tasks, make_loader(), options(), checkpoint=checkpoint).fit()
    Trainer(whole, tasks, make_loader(), options()).fit()

    assert_same_weights(weights(whole), weights(resumed))
    assert threading.active_count() == before


def test_bf16_trains_and_leaves_a_float32_model(make_model, make_loader, tasks):
    model = make_model()
    trainer = Trainer(model, tasks, make_loader(), options(precision="bf16"))
    trainer.fit()
    images = torch.rand(1, 3, 8, 12)

    assert all(v.dtype == torch.float32 for v in model.parameters())
    assert torch.equal(trainer.predict(images)["depth"], model.eval()(images)["depth"])
    assert trainer.predict(images)["depth"].dtype == torch.float32


def test_tensorboard_files_are_written(tmp_path, make_model, make_loader, tasks):
    pytest.importorskip("tensorboard")
    Trainer(
        make_model(), tasks, make_loader(), options(tensorboard=True), history=tmp_path / "history.jsonl"
    ).fit()

    assert list((tmp_path / "tensorboard").glob("events.*"))


@pytest.mark.parametrize("field", ["epochs", "accumulation_steps"])
def test_counts_below_one_are_refused(field):
    with pytest.raises(ValueError, match=f"Expected `{field}` to be at least 1, but got 0"):
        TrainingOptions(**{"epochs": 1, field: 0})


def test_fp16_needs_a_gpu():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match="Expected `precision` to be fp32 or bf16 on CPU, but got fp16"):
        TrainingOptions(epochs=1, precision="fp16")


def test_absent_gpu_is_refused():
    from lomt.training import make_accelerator

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(
        TrainingError, match="Expected a CUDA device, because `device` is cuda, but found none"
    ):
        make_accelerator(device="cuda")
