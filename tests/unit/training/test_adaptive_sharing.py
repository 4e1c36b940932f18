"""Task adaptive sharing: scores, changes, norms, and what is found to need a change."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from lomt.models import Backbone
from lomt.training import AdaptiveBackbone, ScorePenalty
from lomt.training.adaptive_sharing import AdaptedLayer

LAYERS = {"first": "norm", "second": None, "third": None}


class Chain(Backbone):
    """Three convolutions, a norm behind the first, features of 4 channels."""

    def __init__(self):
        super().__init__({"third": 4}, {"third": 1})
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(3, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.second, self.third = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 4, 1)

    def forward(self, images):
        features = functional.leaky_relu(self.norm(self.first(images)), 0.3)
        return {"third": self.third(functional.leaky_relu(self.second(features), 0.3))}


def test_gradients_are_those_of_the_hand_calculation():
    shared = nn.Linear(2, 1)
    with torch.no_grad():
        shared.weight.copy_(torch.tensor([[2.0, -1.0]]))
        shared.bias.fill_(0.5)
    layer = AdaptedLayer(shared, 0.15, 0.1)
    with torch.no_grad():
        layer.changes["weight"].copy_(torch.tensor([[0.25, 1.0]]))
        layer.changes["bias"].fill_(-2.0)
    inputs = torch.tensor([[3.0, 5.0]])
    loss = 0.5 * layer(inputs).square().sum()
    loss.backward()

    # w = (2.25, 0), b = -1.5, y = 5.25; d loss / d w = y x, d loss / d b = y.
    assert loss.item() == pytest.approx(0.5 * 5.25**2)
    assert layer.changes["weight"].grad.tolist() == [[5.25 * 3, 5.25 * 5]]
    assert layer.changes["bias"].grad.tolist() == [5.25]
    assert layer.score.grad.item() == pytest.approx(5.25 * (3 * 0.25 + 5 * 1.0 - 2.0))
    assert shared.weight.grad is None
    assert shared.bias.grad is None


def test_below_the_threshold_the_layer_is_shared_and_may_come_back():
    layer = AdaptedLayer(nn.Linear(2, 1), 0.05, 0.1)
    with torch.no_grad():
        layer.changes["weight"].fill_(3.0)
    inputs = torch.randn(4, 2)
    layer(inputs).sum().backward()

    assert torch.equal(layer(inputs), layer.shared(inputs))
    assert not layer.is_changed
    assert layer.changes["weight"].grad.abs().sum() == 0
    assert layer.score.grad.item() == pytest.approx(float(inputs.sum() * 3.0), rel=1e-5)
    layer.score.data.fill_(0.1)
    assert layer.is_changed, "at the threshold a layer is changed"


def test_the_penalty_is_the_mean_absolute_score_and_begins_after_the_warm_up():
    layers = [AdaptedLayer(nn.Linear(1, 1), score, 0.1) for score in (0.3, -0.2, 0.0, 0.1)]
    penalty = ScorePenalty(layers, 2.0, warmup_epochs=1)
    scores = [layer.score for layer in layers]
    optimizer = torch.optim.SGD(scores, lr=1.0)
    penalty.attach(optimizer, nn.ModuleList(layers))

    assert penalty.value().item() == pytest.approx(2.0 * 0.6 / 4)
    expected = torch.autograd.grad(penalty.value(), scores)
    penalty.before_epoch(0)
    optimizer.step()
    assert [float(score.detach()) for score in scores] == pytest.approx([0.3, -0.2, 0.0, 0.1])
    penalty.before_epoch(1)
    scores[0].grad = torch.tensor(0.25)
    optimizer.step()
    pulls = [0.3 - 0.25 - expected[0], -0.2 - expected[1], 0.0, 0.1 - expected[3]]
    assert [float(score.detach()) for score in scores] == pytest.approx([float(pull) for pull in pulls])
    assert penalty.after_epoch(1, nn.Module(), None)["changed_layers"] == 1
    penalty.detach()
    before = [float(score.detach()) for score in scores]
    optimizer.zero_grad()
    optimizer.step()
    assert [float(score.detach()) for score in scores] == before


def test_a_norm_is_the_tasks_own_only_behind_a_changed_layer():
    backbone = AdaptiveBackbone(Chain(), LAYERS, 0.15, 0.1).train()
    norm, images = backbone.norms["first"], torch.randn(8, 3, 4, 4) + 2
    backbone(images)
    assert norm.own.running_mean.abs().sum() > 0
    assert norm.shared.running_mean.abs().sum() == 0
    backbone.layers["first"].score.data.fill_(0.0)
    seen = norm.own.running_mean.clone()
    features = backbone(images)["third"]
    assert torch.equal(features, Chain().eval()(images)["third"])
    assert torch.equal(norm.own.running_mean, seen)
    features.sum().backward()  # every parameter has a gradient, for training with several processes
    assert all(parameter.grad is not None for parameter in backbone.parameters() if parameter.requires_grad)


def test_what_it_hands_over_are_the_changed_layers_as_they_compute():
    backbone = AdaptiveBackbone(Chain(), LAYERS, 0.15, 0.1).train()
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    images = torch.randn(8, 3, 4, 4)
    backbone(images)["third"].square().mean().backward()
    optimizer.step()
    backbone.layers["second"].score.data.fill_(0.0)
    own, plain = backbone.own_weights(), Chain()

    assert backbone.own_layers() == ("first", "norm", "third")
    assert {name.partition(".")[0] for name in own} == {"first", "norm", "third"}
    plain.load_state_dict({**plain.state_dict(), **own})
    assert torch.equal(plain.eval()(images)["third"], backbone.eval()(images)["third"])
    assert not torch.equal(Chain().eval()(images)["third"], backbone(images)["third"])


def changed_after_training(target_of, penalty, blind=False):
    """Return the changed layers after training on a planted target, and the share of its variance left unexplained."""
    chain = Chain()
    if blind:
        with torch.no_grad():
            chain.first.weight[:, 2] = 0  # the trained tasks never looked at the third channel
    chain.eval()
    torch.manual_seed(1)
    images = torch.randn(16, 3, 2, 2)
    with torch.no_grad():
        target = target_of(images, chain(images)["third"])
    backbone, head = AdaptiveBackbone(chain, LAYERS, 0.15, 0.1), nn.Conv2d(4, 1, 1)
    parameters = [p for p in (*backbone.parameters(), *head.parameters()) if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    law = ScorePenalty(backbone.layers.values(), penalty, warmup_epochs=2)
    law.attach(optimizer, backbone)
    for epoch in range(24):
        law.before_epoch(epoch)
        for _ in range(25):
            optimizer.zero_grad()
            loss = (head(backbone.train()(images)["third"]) - target).square().mean()
            loss.backward()
            optimizer.step()
    loss = (head(backbone.eval()(images)["third"]) - target).square().mean()
    unexplained = loss.detach() / target.var(correction=0)
    return {name for name, layer in backbone.layers.items() if layer.is_changed}, float(unexplained)


def computable(images, features):
    """A linear function of the frozen features."""
    return (features * torch.tensor([1.0, -2.0, 0.5, 1.0])[:, None, None]).sum(1, True)


def unseen(images, features):
    """A function of the channel that the frozen features do not see."""
    return 2 * images[:, 2:]


def test_a_task_that_the_frozen_features_serve_changes_no_layer_and_another_has_to():
    assert changed_after_training(computable, 0.0)[0] == set(LAYERS)
    assert changed_after_training(computable, 0.03)[0] == set()
    changed, unexplained = changed_after_training(unseen, 0.03, blind=True)
    assert "first" in changed, "no later layer can know the channel"
    assert unexplained < 0.01
