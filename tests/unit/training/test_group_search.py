import pytest
import torch
from torch import nn

from lomt.tasks import make_task
from lomt.training import (
    GroupNetworks,
    GroupWeighting,
    OptimizerOptions,
    Trainer,
    TrainingOptions,
    in_group,
)
from lomt.training.weighting import Moment
from tests.unit.killed_after import KilledAfter

TASKS = ("red", "minus_red", "green", "minus_green")


class OneNumber(nn.Module):
    """All tasks read one number, so that it can say what red or green is, but not both."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(2, 1)
        self.decoders = nn.ModuleDict({task: nn.Linear(1, 1) for task in TASKS})

    def forward(self, images):
        number = self.backbone(images[:, :2].mean((2, 3)))
        return {task: decoder(number) for task, decoder in self.decoders.items()}


class Colours:
    """Plain images and how much red and green there is in them."""

    wait_s = 0.0
    batches_per_epoch = 8

    def epoch(self, epoch, start=0):
        generator = torch.Generator().manual_seed(epoch)
        for index in range(self.batches_per_epoch):
            images = 2 * torch.rand(32, 3, 1, 1, generator=generator) - 1
            colours = {"red": images[:, 0, 0], "green": images[:, 1, 0]}
            if index >= start:
                yield {"image": images} | colours | {f"minus_{n}": -v for n, v in colours.items()}


def parts(seed, **choices):
    torch.manual_seed(seed)
    weighting = GroupWeighting(dict.fromkeys(TASKS, 1.0), 2, seed=seed, **choices)
    return weighting, GroupNetworks([OneNumber(), OneNumber()])


@pytest.mark.parametrize(
    ("seed", "choices"), [(0, {}), (1, {"temperature": 1.0}), (2, {"entropy": 0.1, "temperature": 2.5})]
)
def test_planted_families_are_found(seed, choices):
    weighting, model = parts(seed, **choices)
    optimizer = torch.optim.Adam([*model.parameters(), *weighting.parameters()], lr=0.03)
    for step, batch in enumerate(batch for epoch in range(30) for batch in Colours().epoch(epoch)):
        weighting.before_step(Moment(step, 0.0, 0.0))
        losses = {
            name: (value - batch[name.partition("@")[0]]).square().mean()
            for name, value in model(batch["image"]).items()
        }
        optimizer.zero_grad()
        sum(share * losses[name] for name, share in weighting.coefficients().items()).backward()
        weighting.observe(losses)
        optimizer.step()
    red, minus_red, green, minus_green = weighting.membership.argmax(1).tolist()

    assert red == minus_red != green == minus_green


def test_resumed_equals_uninterrupted(tmp_path):
    names = {in_group(task, group): task for task in TASKS for group in range(2)}
    tasks = {name: make_task(name, "regression", 1, loss="mse") for name in names}

    def search(seed, folder, progress=None):
        weighting, (_, model) = parts(0)[0], parts(seed)  # noise goes by the seed, all else by the checkpoint
        torch.nn.init.constant_(weighting.logits, 1.0 + seed)
        chosen = TrainingOptions(epochs=2, optimizer=OptimizerOptions(lr=0.03), checkpoint_s=1e-9)
        checkpoint = folder / "train.checkpoint"
        choices = {"targets": names, "weighting": weighting, "checkpoint": checkpoint, "progress": progress}
        Trainer(model, tasks, Colours(), chosen, **choices).fit()
        return weighting, model

    whole, networks = search(0, tmp_path / "whole")
    with pytest.raises(SystemExit):
        search(0, tmp_path / "cut", KilledAfter(11))
    again, networks_again = search(1, tmp_path / "cut")

    assert not torch.equal(whole.logits, parts(0)[0].logits)
    assert torch.equal(whole.logits, again.logits)
    for first, second in zip(networks.parameters(), networks_again.parameters(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("entropy", [0.0, 1.2])
def test_gradient_is_that_of_the_whole_loss(hard, entropy):
    weights = {"a": 1.0, "b": 0.5, "c": 2.0}
    weighting = GroupWeighting(weights, 2, temperature=2.5, hard=hard, entropy=entropy, seed=4)
    weighting.before_step(Moment(7, 0.0, 0.0))
    losses = {in_group(task, group): torch.rand(()) for task in weights for group in range(2)}
    weighting.observe(losses)

    # The straight-through gradient is the soft one: only the value differs.
    table = torch.stack([torch.stack([losses[f"{task}@{g}"] for g in range(2)]) for task in weights])
    logits = weighting.logits.detach().clone().requires_grad_()
    shares = torch.softmax((logits + weighting._noise) / 2.5, dim=1)
    p = logits.softmax(1)
    terms = -(p * p.log() + (1 - p) * (1 - p).log()).sum(1)
    total = (torch.tensor([1.0, 0.5, 2.0])[:, None] * shares * table).sum() + entropy * terms.mean()
    total.backward()
    assert torch.allclose(weighting.logits.grad, logits.grad, atol=1e-6)


def test_shares_of_a_task_sum_to_its_weight():
    for hard in (False, True):
        weighting = GroupWeighting({"a": 1.0, "b": 0.5}, 3, hard=hard)
        weighting.before_step(Moment(0, 0.0, 0.0))
        shares = weighting.coefficients()

        assert list(shares) == ["a@0", "a@1", "a@2", "b@0", "b@1", "b@2"]
        assert [float(sum(shares[f"{task}@{g}"] for g in range(3))) for task in "ab"] == pytest.approx(
            [1.0, 0.5]
        )
        if hard:
            assert sorted(float(shares[f"b@{g}"]) for g in range(3)) == pytest.approx([0, 0, 0.5])


def test_noise_is_gumbels_and_follows_from_seed_and_step():
    weighting = GroupWeighting(dict.fromkeys(map(str, range(3000)), 1.0), 2, temperature=1.0, hard=True)
    with torch.no_grad():
        weighting.logits[:, 0] += 1.0
    weighting.before_step(Moment(5, 0.0, 0.0))
    first = weighting._noise.clone()
    shares = weighting.coefficients()
    chosen = torch.stack([shares[f"{task}@0"] for task in range(3000)]).mean()
    weighting.before_step(Moment(6, 0.0, 0.0))
    assert not torch.equal(weighting._noise, first)
    weighting.before_step(Moment(5, 0.0, 0.0))

    assert torch.equal(weighting._noise, first)
    # Gumbel's trick: the largest of logits plus noise is drawn by the softmax of the logits.
    assert float(chosen) == pytest.approx(float(weighting.membership[:, 0].mean()), abs=0.03)


@pytest.mark.parametrize(
    ("groups", "choices", "message"),
    [
        (0, {}, "Expected `groups` to be at least 1, but got 0"),
        (2, {"temperature": 0.0}, "Expected `temperature` to be above 0, but got 0.0"),
        (2, {"entropy": -1.0}, "Expected `entropy` to be at least 0, but got -1.0"),
    ],
)
def test_arguments_are_checked(groups, choices, message):
    with pytest.raises(ValueError, match=message):
        GroupWeighting({"a": 1.0}, groups, **choices)
