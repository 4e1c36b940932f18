"""Weightings with a target task, in the training loop."""

import itertools
import json
import math
from dataclasses import replace

import pytest
import torch

from lomt.errors import TrainingError, UnknownNameError
from lomt.sparsity import measure_sparsity
from lomt.tasks import make_task
from lomt.training import (
    BatchLosses,
    GroupLassoPath,
    OptimizerOptions,
    SilentProgress,
    Trainer,
    TrainingOptions,
)
from lomt.training.weighting import Moment, make_weighting
from tests.unit.killed_after import KilledAfter

WEIGHTS = {"depth": 1.0, "segmentation": 2.0}


def options(weighting, epochs=4, **changes):
    own = {
        "epochs": epochs,
        "optimizer": OptimizerOptions(lr=0.03),
        "weighting": weighting,
        "target": "depth",
    }
    return TrainingOptions(**{**own, **changes})


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def at(epoch, share=0.0, step=0):
    return Moment(step, epoch, share)


def test_diminish_is_the_formula_and_stops_at_the_cutoff():
    weighting = make_weighting(
        "diminish", WEIGHTS, {"rate": 0.4, "curvature": 1.5, "cutoff": 0.05}, target="depth"
    )
    for epoch in (0.0, 0.5, 2.0, 3.0):
        weighting.before_step(at(epoch))
        found = weighting.coefficients()
        assert float(found["depth"]) == 1.0
        assert float(found["segmentation"]) == pytest.approx(2 * math.exp(-0.4 * epoch**1.5))
        assert weighting.active() == {"depth", "segmentation"}
    weighting.before_step(at(4.0))  # exp(-3.2) = 0.041
    assert float(weighting.coefficients()["segmentation"]) == 0.0
    assert weighting.retired() == {"segmentation"}
    assert weighting.active() == {"depth"}


@pytest.mark.parametrize(
    ("chosen", "before", "after"),
    [
        ({}, at(0, 0.59), at(0, 0.6)),
        ({"share": 0.2}, at(0, 0.1), at(0, 0.2)),
        ({"step": 5}, at(0, 0.9, 4), at(0, 0, 5)),
    ],
)
def test_switch_happens_at_its_moment_and_stays(chosen, before, after):
    weighting = make_weighting("switch", WEIGHTS, chosen, target="depth")
    weighting.before_step(before)
    assert weighting.retired() == frozenset()
    weighting.before_step(after)
    weighting.before_step(at(0))
    assert weighting.retired() == {"segmentation"}


@pytest.mark.parametrize(
    ("name", "chosen", "message"),
    [
        ("diminish", {"rate": 0.0}, "`rate` of task `segmentation` to be above 0"),
        ("diminish", {"rate": {"depth": 1.0}}, "Unknown auxiliary task in `rate` `depth`"),
        ("diminish", {"rate": {}}, "`rate` to have a value for task `segmentation`"),
        ("diminish", {"cutoff": 1.0}, "`cutoff` to be at least 0 and below 1"),
        ("switch", {"share": 0.5, "step": 3}, "at most one of `share`, `step` and `patience`, but got 2"),
        ("switch", {"share": 1.5}, "`share` to be from 0 to 1, but got 1.5"),
        ("switch", {"patience": 0}, "`patience` to be at least 1, but got 0"),
        ("alphavil", {"alpha_lr": 0.0}, "`alpha_lr` to be above 0"),
        ("alphavil", {"steps": 0}, "`steps` to be at least 1"),
        ("forkmerge", {"auxiliaries": ["depht"]}, "Unknown auxiliary task `depht`"),
        ("forkmerge", {"pilot_epochs": -1}, "`pilot_epochs` to be at least 0, but got -1"),
        (
            "forkmerge",
            {"pilot_epochs": 1, "auxiliaries": ["segmentation"]},
            "at most one of `auxiliaries` and",
        ),
        ("switch", {"shares": 0.5}, "Unknown option of weighting switch `shares`, did you mean `share`"),
        ("dwa", {"temperature": 0.0}, "`temperature` to be above 0"),
        ("gradnorm", {"alpha": -1.0}, "`alpha` to be at least 0"),
    ],
)
def test_options_are_checked(name, chosen, message):
    with pytest.raises(ValueError, match=message):
        make_weighting(name, WEIGHTS, chosen, target="depth")


def test_a_target_is_needed_and_known():
    with pytest.raises(
        TrainingError, match="`target` to name a task, because weighting `switch` works for one"
    ):
        make_weighting("switch", WEIGHTS)
    with pytest.raises(UnknownNameError, match="Unknown target task `dpth`, did you mean `depth`"):
        make_weighting("switch", WEIGHTS, target="dpth")


def test_switched_training_is_single_task_training(make_model, make_loader, tasks):
    """Switched before the first step, the target and the backbone end as if there had been no other task."""
    ends = []
    for own, weighting, chosen in (
        (tasks, "switch", {"share": 0.0}),
        ({"depth": tasks["depth"]}, "fixed", {}),
    ):
        model = make_model()
        if len(own) == 1:
            del model.decoders["segmentation"]
        Trainer(model, own, make_loader(), options(weighting, weighting_options=chosen)).fit()
        ends.append(weights(model))

    for name, value in ends[1].items():
        assert torch.equal(value, ends[0][name]), name


def test_after_the_switch_decoder_gradients_and_moments_are_gone(make_model, make_loader, tasks):
    model, seen = make_model(), []
    own = set(model.decoders["segmentation"].parameters())

    class Watch(SilentProgress):
        def advance(self, count=1, **figures):
            held = {p for group in trainer._optimizer.param_groups for p in group["params"]}
            seen.append((list(model.decoders), bool(own & held), bool(own & set(trainer._optimizer.state))))

    trainer = Trainer(
        model,
        tasks,
        make_loader(),
        options("switch", weighting_options={"share": 0.5}),
        progress=Watch(),
        validation=make_loader(shuffle=False),
    )
    history = trainer.fit()

    assert seen[0] == (["depth", "segmentation"], True, True)
    assert seen[-1] == (["depth"], False, False)
    assert list(model.decoders) == ["depth", "segmentation"], "it comes back when training is over"
    assert set(history[0]["train_loss"]) == set(history[0]["validation"]) == {"depth", "segmentation"}
    assert set(history[-1]["train_loss"]) == set(history[-1]["validation"]) == {"depth"}


def test_switch_waits_for_the_targets_validation_loss(make_model, make_loader, tasks):
    chosen = options(
        "switch", epochs=6, weighting_options={"patience": 1}, optimizer=OptimizerOptions(lr=3.0)
    )
    history = Trainer(make_model(), tasks, make_loader(), chosen, validation=make_loader(shuffle=False)).fit()
    losses = [record["validation_loss"]["depth"] for record in history]
    stalled = next(i for i in range(1, 6) if losses[i] >= min(losses[:i]))

    for epoch, record in enumerate(history):
        assert ("segmentation" in record["train_loss"]) == (epoch <= stalled)


def test_switch_by_patience_needs_validation(make_model, make_loader, tasks):
    chosen = options("switch", weighting_options={"patience": 1})
    with pytest.raises(ValueError, match="Expected validation batches, because `switch` waits"):
        Trainer(make_model(), tasks, make_loader(), chosen).fit()


@pytest.mark.parametrize("killed_at", [5, 10])
@pytest.mark.parametrize(
    ("weighting", "chosen"),
    [
        ("switch", {"share": 0.5}),
        ("diminish", {"rate": 3.0}),
        ("alphavil", {"steps": 2}),
        ("forkmerge", {"steps": 2}),
        ("forkmerge", {"steps": 2, "pilot_epochs": 2}),
        ("dwa", {}),
        ("gradnorm", {}),
    ],
)
def test_resumed_equals_uninterrupted(tmp_path, make_model, make_loader, tasks, killed_at, weighting, chosen):
    def run(model, folder, progress=None):
        return Trainer(
            model,
            tasks,
            make_loader(),
            options(weighting, weighting_options=chosen, checkpoint_s=1e-9),
            validation=make_loader(shuffle=False),
            checkpoint=folder / "train.checkpoint",
            progress=progress,
        ).fit()

    whole, resumed = make_model(), make_model(seed=1)
    records = run(whole, tmp_path / "whole")
    with pytest.raises(SystemExit):
        run(make_model(), tmp_path / "cut", KilledAfter(killed_at))
    again = run(resumed, tmp_path / "cut")

    for name, value in weights(whole).items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert records[-1]["train_loss"] == again[-1]["train_loss"]
    json.dumps(records)


def attached(make_model, make_loader, tasks, name, **chosen):
    """A weighting in a training, with branches that ended at random places near the start."""
    trainer = Trainer(
        make_model().double(),
        tasks,
        make_loader(),
        options(name, weighting_options=chosen),
        validation=make_loader(shuffle=False),
    )
    trainer._mean, trainer._std = trainer._mean.double(), trainer._std.double()
    weighting, view = trainer._weighting, trainer._view()
    view.model.eval()
    weighting.attach(view)
    generator = torch.Generator().manual_seed(3)
    noise = 0.1 * torch.randn(weighting.ends.shape, generator=generator, dtype=torch.float64)
    weighting.ends.copy_(weighting.start + noise)
    return weighting, view


def test_alphas_gradient_is_that_of_finite_differences(make_model, make_loader, tasks, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)  # losses in float64 all the way
    weighting, view = attached(make_model, make_loader, tasks, "alphavil")
    batch = {n: v.double() if v.is_floating_point() else v for n, v in next(make_loader().epoch(0)).items()}
    alpha, step = torch.tensor([1.0, 0.7], dtype=torch.float64), 1e-6
    found = weighting.alpha_gradient(view, alpha, batch)

    def loss(at):
        mixed = weighting.start + at @ (weighting.ends - weighting.start)
        return float(weighting.target_loss(view, mixed, batch).detach())

    for index in range(2):
        shift = torch.zeros(2, dtype=torch.float64)
        shift[index] = step
        difference = (loss(alpha + shift) - loss(alpha - shift)) / (2 * step)
        assert float(found[index]) == pytest.approx(difference, rel=1e-5, abs=1e-8)


def test_alphavil_weighs_down_what_harms_the_target(make_model, make_loader, tasks):
    """Told that one task's change is the target's opposite, alpha falls for it and so does its weight."""
    trainer = Trainer(
        make_model(),
        tasks,
        make_loader(),
        options("alphavil", epochs=2, weighting_options={"steps": 4}),
        validation=make_loader(shuffle=False),
    )
    weighting, view = trainer._weighting, trainer._view()
    view.model.eval()
    weighting.attach(view)
    batch = next(make_loader().epoch(0))
    loss = view.losses(view.model, batch)["depth"]
    gradients = torch.autograd.grad(loss, list(view.model.parameters()), allow_unused=True)
    pairs = zip(gradients, view.model.parameters(), strict=True)
    fall = -torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])
    weighting.ends.copy_(weighting.start + 1e-2 * torch.stack([fall, -fall]))
    _, record = weighting.merge(view)

    assert record["alpha"]["segmentation"] < 1 < record["alpha"]["depth"]
    assert record["weights"]["segmentation"] == pytest.approx(record["alpha"]["segmentation"])


def test_no_step_of_alpha_is_longer_than_its_rate(make_model, make_loader, tasks, monkeypatch):
    """A first gradient near zero must not make later ones huge."""
    weighting, view = attached(make_model, make_loader, tasks, "alphavil", alpha_lr=0.1, steps=4)
    seen = []

    def gradient(view, alpha, batch):
        seen.append(alpha)
        return torch.tensor([1e-6, 0.0] if len(seen) == 1 else [3.0, 4.0], dtype=alpha.dtype)

    monkeypatch.setattr(weighting, "alpha_gradient", gradient)
    _, record = weighting.merge(view)
    steps = [float((after - before).norm()) for before, after in itertools.pairwise(seen)]

    assert steps == pytest.approx([0.1, 0.1, 0.1])
    assert record["alpha"]["segmentation"] == pytest.approx(1 - 3 * 0.08)


class LengthOfTheFirst(BatchLosses):
    """A loss with a clear minimum: the squared length of the first parameter."""

    def __call__(self, model, batch):
        return {"depth": next(model.parameters()).detach().square().sum()}


def test_forkmerge_takes_the_best_of_what_it_tried(make_model, make_loader, tasks):
    weighting, view = attached(make_model, make_loader, tasks, "forkmerge", steps=3)
    view = replace(view, losses=LengthOfTheFirst(tasks))
    merged, record = weighting.merge(view)

    with torch.no_grad():
        best = min(weighting._loss(view, end) for end in weighting.ends)
        assert weighting._loss(view, merged) <= best
    assert set(record["merge"]) == {"depth", "depth+segmentation"}


def test_pilot_runs_put_the_helpful_auxiliary_first(make_model, make_loader, tasks):
    """`twin` has the target's own labels, `segmentation` a weight that drowns the target."""
    model = make_model()
    model.decoders["twin"] = torch.nn.Conv2d(8, 1, 1)
    tasks = {name: tasks[name] for name in ("depth", "segmentation")} | {
        "twin": make_task("twin", "depth", 1)
    }
    before = weights(model)
    starts = []

    class Watch(SilentProgress):
        def advance(self, **values):
            starts.append(weights(model)["backbone.0.weight"])

    records = Trainer(
        model,
        tasks,
        make_loader(),
        options("forkmerge", epochs=6, weighting_options={"pilot_epochs": 2, "most": 1, "steps": 3}),
        weights={"segmentation": 300.0},
        targets={"twin": "depth"},
        validation=make_loader(shuffle=False),
        progress=Watch(),
    ).fit()
    assert [record.get("pilot") for record in records] == [None, "segmentation", None, "twin", None, None]
    assert records[3]["ranking"] == ["twin"]
    assert records[3]["pilot_loss"] < records[1]["pilot_loss"]
    assert [record.get("branch") for record in records[4:]] == [["depth"], ["depth", "twin"]]
    assert set(records[5]["merge"]) == {"depth", "depth+twin"}
    assert [set(record["train_loss"]) for record in records] == [
        {"depth", "segmentation"},
        {"depth", "segmentation"},
        {"depth", "twin"},
        {"depth", "twin"},
        {"depth"},
        {"depth", "twin"},
    ]
    # Pilot runs and branches begin where the training began: one step away from there they are close to it.
    steps = len(starts) // 6
    first = before["backbone.0.weight"]
    for place in (0, 2 * steps, 4 * steps, 5 * steps):
        assert (starts[place] - first).abs().max() < 0.035


def test_epochs_must_have_room_for_pilot_runs(make_model, make_loader, tasks):
    chosen = {"pilot_epochs": 3}
    with pytest.raises(
        TrainingError, match="`epochs` to be 3 of pilot runs and a multiple of 2, because.*got 4"
    ):
        Trainer(make_model(), tasks, make_loader(), options("forkmerge", weighting_options=chosen)).fit()


def test_epochs_must_finish_the_last_round(make_model, make_loader, tasks):
    with pytest.raises(
        TrainingError, match="`epochs` to be a multiple of 2, because 2 branches .* but got 3"
    ):
        Trainer(make_model(), tasks, make_loader(), options("alphavil", epochs=3)).fit()


def test_dwa_is_the_formula():
    weighting = make_weighting("dwa", WEIGHTS, {"temperature": 0.5})
    for losses in ((4.0, 2.0), (2.0, 2.0)):
        assert [float(v) for v in weighting.coefficients().values()] == pytest.approx([1.0, 2.0])
        for _ in range(3):
            weighting.observe({name: torch.tensor(loss) for name, loss in zip(WEIGHTS, losses, strict=True)})
        weighting.after_epoch(0)
    e = [math.exp(0.5 / 0.5), math.exp(1.0 / 0.5)]

    assert [float(v) for v in weighting.coefficients().values()] == pytest.approx(
        [2 * e[0] / sum(e), 4 * e[1] / sum(e)]
    )


def test_gradnorms_gradient_is_that_of_its_loss():
    weighting = make_weighting("gradnorm", {"depth": 1.0, "segmentation": 1.0}, {"alpha": 0.5})
    norms = {"depth": torch.tensor(3.0), "segmentation": torch.tensor(0.5)}
    weighting.observe_norms(norms, {"depth": torch.tensor(2.0), "segmentation": torch.tensor(4.0)})
    losses = {"depth": torch.tensor(1.0), "segmentation": torch.tensor(3.0)}
    weighting.observe_norms(norms, losses)
    w = torch.ones(2, requires_grad=True)
    lengths = w * torch.tensor([3.0, 0.5])
    speeds = torch.tensor([0.5, 0.75])
    wanted = (lengths.mean() * (speeds / speeds.mean()) ** 0.5).detach()
    (lengths - wanted).abs().sum().backward()

    assert torch.allclose(weighting.learned.grad, w.grad)
    with torch.no_grad():
        weighting.learned.copy_(torch.tensor([3.0, 1.0]))
    assert [float(v) for v in weighting.coefficients().values()] == pytest.approx([1.5, 0.5])


def test_gradnorm_wants_positive_weights():
    with pytest.raises(ValueError, match="weight of task `depth` to be above 0 with GradNorm, but got 0"):
        make_weighting("gradnorm", {"depth": 0.0})


@pytest.mark.parametrize("accumulation", [1, 2])
def test_aggregation_group_lasso_and_weighting_work_together(make_model, make_loader, tasks, accumulation):
    model = make_model()
    path = GroupLassoPath(model.backbone, (10.0,), epochs_per_lambda=2)
    chosen = options(
        "uncertainty", epochs=2, aggregation="pcgrad", accumulation_steps=accumulation, target=None
    )
    history = Trainer(model, tasks, make_loader(4), chosen, regularizer=path).fit()

    assert measure_sparsity(model.backbone).total.sparsity == 1.0
    assert all(math.isfinite(loss) for loss in history[-1]["train_loss"].values())


def test_a_sum_of_rows_is_the_ordinary_training(make_model, make_loader, tasks, monkeypatch):
    ends = []
    for aggregation in (None, "pcgrad"):
        monkeypatch.setattr(
            "lomt.training.trainer.make_aggregator", lambda *args, **kwargs: lambda rows, step: rows.sum(0)
        )
        model = make_model()
        chosen = options(
            "fixed", epochs=1, aggregation=aggregation, optimizer=OptimizerOptions(kind="sgd", lr=0.1)
        )
        Trainer(model, tasks, make_loader(), chosen, weights=WEIGHTS).fit()
        ends.append(weights(model))

    for name in ends[0]:
        assert torch.allclose(ends[0][name], ends[1][name], atol=1e-5), name


def test_fp16_and_aggregation_do_not_go_together(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match="fp32 or bf16 with `aggregation`, but got fp16"):
        TrainingOptions(epochs=1, precision="fp16", aggregation="pcgrad")
