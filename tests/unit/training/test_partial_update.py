import pytest
import torch
from torch import nn

from lomt.training import (
    OptimizerOptions,
    PartialUpdate,
    Regularizer,
    Trainer,
    TrainingOptions,
    updating_only,
)
from lomt.training.partial_update import frozen_norms
from tests.unit.killed_after import KilledAfter

CHOSEN = [1, 4, 6]


def masks_of(model, channels=CHOSEN):
    """Some channels of the backbone and all of depth's head; nothing of the other head."""
    masks = {
        name: torch.zeros(value.shape, dtype=torch.bool)
        for name, value in model.state_dict().items()
        if value.ndim and "segmentation" not in name
    }
    for name, mask in masks.items():
        mask[slice(None) if name.startswith("decoders.depth") else channels] = True
    return masks


def trainer(model, tasks, loader, *, optimizer=None, epochs=3, **choices):
    options = TrainingOptions(
        epochs=epochs,
        optimizer=optimizer or OptimizerOptions(lr=0.03, weight_decay=0.1),
        gradient_clip=1.0,
        checkpoint_s=0.0,
    )
    return Trainer(model, {"depth": tasks["depth"]}, loader, options, **choices)


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_only_the_masked_entries_move_and_the_target_improves(kind, make_model, make_loader, tasks):
    model, before = make_model(), make_model().state_dict()
    masks = masks_of(model)
    with updating_only(model, masks) as update:
        records = trainer(
            model,
            tasks,
            make_loader(),
            optimizer=OptimizerOptions(kind=kind, lr=0.03, weight_decay=0.1),
            regularizer=update,
        ).fit()
    for name, value in model.state_dict().items():
        mask = masks.get(name, torch.zeros(value.shape, dtype=torch.bool))
        is_statistic = "running" in name or "num_batches" in name
        assert value[~mask].equal(before[name][~mask]), name
        # A norm of which a part is fixed keeps all its statistics.
        assert value.equal(before[name]) if is_statistic else bool((value != before[name])[mask].all()), name
    assert records[-1]["train_loss"]["depth"] < 0.8 * records[0]["train_loss"]["depth"]
    own = sum(int(masks[name].sum()) for name, _ in model.named_parameters() if name in masks)
    assert [record["updated_parameters"] for record in records] == [own] * 3


def test_statistics_of_a_norm_that_may_change_as_a_whole_move(make_model, make_loader, tasks):
    model, before = make_model(), make_model().state_dict()
    masks = masks_of(model, slice(None))
    assert frozen_norms(model, masks) == ()
    with updating_only(model, masks) as update:
        trainer(model, tasks, make_loader(), epochs=1, regularizer=update).fit()
    after = model.state_dict()
    assert not after["backbone.1.running_mean"].equal(before["backbone.1.running_mean"])
    assert all(after[n].equal(v) for n, v in before.items() if "segmentation" in n)


def test_a_norm_with_a_fixed_part_normalises_by_what_is_stored(make_model):
    model = make_model()
    images = torch.rand(4, 3, 8, 12)
    expected = model.eval()(images)["depth"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    update = PartialUpdate(masks_of(model))
    assert isinstance(update, Regularizer)
    update.attach(optimizer, model)
    assert model.train()(images)["depth"].equal(expected)
    update.detach()
    assert not model.train()(images)["depth"].equal(expected)


def test_all_is_put_back_and_gradients_are_whole_again(make_model, make_loader, tasks):
    model = make_model()
    model.decoders["segmentation"].bias.requires_grad_(False)
    with updating_only(model, masks_of(model)) as update:
        assert not model.decoders["segmentation"].weight.requires_grad
        trainer(model, tasks, make_loader(), epochs=1, regularizer=update).fit()
    needs = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert needs.pop("decoders.segmentation.bias") is False
    assert all(needs.values())
    model.zero_grad()
    model.train()(torch.rand(2, 3, 8, 12))["depth"].square().sum().backward()
    assert (model.backbone[0].weight.grad.flatten(1).norm(dim=1) > 0).all()


def test_frozen_parameters_are_not_in_the_optimizer(make_model, make_loader, tasks):
    model = make_model()
    with updating_only(model, masks_of(model)) as update:
        run = trainer(model, tasks, make_loader(), epochs=1, regularizer=update)
        run.fit()
        assert not [name for name in run.optimizer_state if "segmentation" in name]


def test_a_killed_training_goes_on_to_the_same_weights(make_model, make_loader, tasks, tmp_path):
    def fit(**choices):
        model = make_model()
        with updating_only(model, masks_of(model)) as update:
            trainer(model, tasks, make_loader(), regularizer=update, **choices).fit()
        return model.state_dict()

    whole = fit()
    with pytest.raises(SystemExit):
        fit(checkpoint=tmp_path / "a.checkpoint", progress=KilledAfter(5))
    resumed = fit(checkpoint=tmp_path / "a.checkpoint")
    assert all(value.equal(resumed[name]) for name, value in whole.items())


def test_instance_norms_with_statistics_count_too():
    model = nn.Sequential(nn.InstanceNorm2d(2, affine=True, track_running_stats=True), nn.BatchNorm2d(2))
    model.append(nn.BatchNorm2d(2, affine=False))
    model.append(nn.BatchNorm2d(2, track_running_stats=False))
    full = {name: torch.ones(value.shape, dtype=torch.bool) for name, value in model.state_dict().items()}
    assert frozen_norms(model, full) == ()
    assert frozen_norms(model, {}) == ("0", "1", "2")
    full["1.bias"][0] = False
    assert frozen_norms(model, full) == ("1",)


@pytest.mark.parametrize(
    ("masks", "text"),
    [
        ({"stem": torch.ones(2, dtype=torch.bool)}, r"`stem` has shape \(2,\) and the model no tensor"),
        ({"weight": torch.ones(2, dtype=torch.bool)}, r"`weight` has shape \(2,\) and the model \(2, 3\)"),
        ({"bias": torch.zeros(2, dtype=torch.bool)}, "let some parameter change, but they hold all"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks, text):
    with pytest.raises(ValueError, match=text), updating_only(nn.Linear(3, 2), masks):
        pass
