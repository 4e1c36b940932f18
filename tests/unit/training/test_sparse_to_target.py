import pytest
import torch
from torch.optim import SGD, Adam

from lomt.errors import SparsityTargetError
from lomt.sparsity import (
    CoupledGroupLasso,
    SparsityController,
    add_group_thresholds,
    add_soft_thresholds,
    bake_thresholds,
    coupled_groups,
)
from lomt.structure import trace_structure
from lomt.training import (
    FreeRunningThresholds,
    OptimizerOptions,
    SparseToTarget,
    Trainer,
    TrainingOptions,
)
from tests.unit.killed_after import KilledAfter


def sparse(model, *, thresholds=True, lasso=True, target=0.6, end=9):
    """Return a regularizer for the tiny model: 8 channels, so that 0.6 means 5 of them."""
    groups = coupled_groups(model, trace_structure(model, torch.rand(1, 3, 8, 12)))
    controller = SparsityController(
        groups,
        target,
        start=2,
        end=end,
        thresholds=add_group_thresholds(model, groups) if thresholds else None,
        lasso=CoupledGroupLasso(groups, 0.0, metric="adam") if lasso else None,
    )
    return SparseToTarget(controller)


def options(**changes):
    return TrainingOptions(**{"epochs": 4, "optimizer": OptimizerOptions(lr=0.02), **changes})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("thresholds", "lasso"), [(True, False), (False, True), (True, True)])
def test_training_ends_at_the_target(make_model, make_loader, tasks, thresholds, lasso, precision):
    model = make_model()
    regularizer = sparse(model, thresholds=thresholds, lasso=lasso)
    records = Trainer(
        model, tasks, make_loader(), options(precision=precision), regularizer=regularizer
    ).fit()
    bake_thresholds(model)

    readers = torch.cat([head.weight for head in model.decoders.values()])
    assert int((readers == 0).all(0).sum()) == 5
    assert records[-1]["sparsity"]["is_frozen"] and records[-1]["sparsity"]["reached"] == 5 / 8
    assert [record["sparsity"]["is_frozen"] for record in records] == [False, False, True, True]
    assert ("thresholds" in records[0]["sparsity"]) == thresholds


@pytest.mark.parametrize("killed_at", [2, 8])
@pytest.mark.parametrize(("thresholds", "lasso"), [(True, False), (True, True)])
def test_resumed_equals_uninterrupted(tmp_path, make_model, make_loader, tasks, killed_at, thresholds, lasso):
    def trainer(model, folder, progress=None):
        return Trainer(
            model,
            tasks,
            make_loader(flip=0.5),
            options(checkpoint_s=1e-9),
            regularizer=sparse(model, thresholds=thresholds, lasso=lasso),
            checkpoint=folder / "train.checkpoint",
            progress=progress,
        )

    whole, resumed = make_model(), make_model(seed=1)
    trainer(whole, tmp_path / "whole").fit()
    with pytest.raises(SystemExit):
        trainer(make_model(), tmp_path / "cut", KilledAfter(killed_at)).fit()
    trainer(resumed, tmp_path / "cut").fit()
    for model in (whole, resumed):
        bake_thresholds(model)

    assert whole.state_dict().keys() == make_model().state_dict().keys()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def drifted(steps, decay, kind=Adam, **how):
    """Let the logits of a network without a loss run free, and return the first."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1))
    source = add_soft_thresholds(model, initial_logit=-15.0)
    rule = FreeRunningThresholds(model, 0.9, decay=decay, check_every=steps)
    optimizer = kind([source.logits], **how)
    rule.attach(optimizer, model)
    for _ in range(steps):
        source.logits.grad = torch.zeros_like(source.logits)
        optimizer.step()
    return float(source.logits.detach())


@pytest.mark.parametrize("decay", [1e-4, 1e-6])
def test_under_adam_logits_climb_by_the_learning_rate_whatever_the_decay(decay):
    # From -15 to about -10.26 in 5000 steps of 1e-3, as the published code does.
    assert drifted(5000, decay, lr=1e-3, betas=(0.5, 0.999)) == pytest.approx(-10.26, abs=0.05)


def test_under_sgd_the_decay_sets_the_pace():
    slow, fast = (drifted(100, decay, SGD, lr=0.1) for decay in (1e-4, 1e-3))

    assert slow == pytest.approx(-15 * (1 - 1e-5) ** 100, rel=1e-4)
    assert fast == pytest.approx(-15 * (1 - 1e-4) ** 100, rel=1e-4)


def test_published_thresholds_rise_to_the_target_and_freeze(make_model, make_loader, tasks):
    model = make_model()
    source = add_soft_thresholds(
        model,
        component_of=lambda name: "backbone" if "backbone" in name else name.split(".")[1],
        initial_logit=-3.5,
    )
    rule = FreeRunningThresholds(model, 0.5)
    records = Trainer(
        model,
        tasks,
        make_loader(),
        options(epochs=30, optimizer=OptimizerOptions("adam", lr=0.05)),
        regularizer=rule,
    ).fit()
    frozen = [record["sparsity"]["thresholds"] for record in records if record["sparsity"]["is_frozen"]]

    assert rule.frozen_at is not None and 0.5 <= records[-1]["sparsity"]["zero"] < 1
    assert len(frozen) > 1 and all(own == frozen[0] for own in frozen)
    assert set(records[0]["sparsity"]["components"]) == {"backbone", "depth", "segmentation"}
    assert frozen[0] == source.thresholds


def test_a_resumed_rule_stays_frozen(make_model):
    rule, again = (FreeRunningThresholds(with_thresholds(make_model()), 0.5) for _ in range(2))
    rule._step, rule._frozen_at = 7, 5
    again.restore(rule.state())

    assert again.frozen_at == 5


def with_thresholds(model):
    add_soft_thresholds(model)
    return model


def test_bad_input_is_refused(make_model):
    model = with_thresholds(make_model())
    for target in (0.0, 1.0, -1.0):
        with pytest.raises(ValueError, match="^Expected `target` to be above 0 and below 1, but got"):
            FreeRunningThresholds(model, target)
    with pytest.raises(ValueError, match="^Expected `decay` to be above 0, but got 0.0"):
        FreeRunningThresholds(model, 0.5, decay=0.0)
    with pytest.raises(ValueError, match="^Expected `check_every` to be at least 1, but got 0"):
        FreeRunningThresholds(model, 0.5, check_every=0)
    with pytest.raises(
        SparsityTargetError, match="^Expected the model to have thresholds, but got one without"
    ):
        FreeRunningThresholds(make_model(), 0.5)
