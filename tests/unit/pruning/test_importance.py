import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from lomt.errors import ScoreError, UnknownNameError
from lomt.pruning.importance import (
    IMPORTANCES,
    USES_LOSSES,
    BatchNormScale,
    GroupMagnitude,
    RandomScores,
    Taylor,
    make_importance,
    normalize_layers,
)
from lomt.pruning.task_importance import SquaredOutputs
from tests.reference import channel_scores as reference
from tests.reference.hand_structure import HandStructure, coupled_channels, shapes_of, two_tasks


def assert_same_scores(actual, expected):
    assert list(actual) == list(expected)
    for name, values in expected.items():
        torch.testing.assert_close(actual[name], values, rtol=1e-5, atol=1e-9)


def linear_pair(first, second, **kwargs):
    """Two linear layers with given weights, (out, in) each."""
    model = nn.Sequential(nn.Linear(*reversed(first.shape)), nn.Linear(*reversed(second.shape)))
    model[0].weight.data, model[1].weight.data = first, second
    coupled = coupled_channels(
        "0", len(first), ("0.weight", 0, "producer"), ("0.bias", 0, "scale"), ("1.weight", 1, "consumer")
    )
    return model, HandStructure((coupled,), shapes_of(model), {})


def scores_of(name, model, structure, images):
    losses = SquaredOutputs([images, images + 1]) if name in USES_LOSSES else None
    options = {"fallback": GroupMagnitude()} if name == "batchnorm" else {}
    return make_importance(name, losses, **options)(structure, model)


@pytest.mark.parametrize("name", IMPORTANCES)
def test_every_importance_scores_every_prunable_channel_and_leaves_the_model_alone(name):
    model, structure, images = two_tasks()
    model.stem.requires_grad_(False)
    model.depth.train()
    model.shared.weight.grad = torch.full_like(model.shared.weight, 3.0)
    before = copy.deepcopy(model)
    scores = scores_of(name, model, structure, images)
    assert {c.name: (c.count,) for c in structure.prunable} == {n: s.shape for n, s in scores.items()}
    for values in scores.values():
        assert values.isfinite().all() and (values >= 0).all() and values.unique().numel() > 1
        assert values.device.type == "cpu" and not values.requires_grad
    for (name, old), new in zip(before.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(old, new), name
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in before.parameters()]
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert list(gradients) == ["shared.weight"] and (gradients["shared.weight"] == 3).all()


@pytest.mark.parametrize("name", [name for name in IMPORTANCES if name != "random"])
def test_scores_do_not_depend_on_the_order_of_channels(name):
    model, structure, images = two_tasks()
    expected = scores_of(name, model, structure, images)["shared"].flip(0)
    with torch.no_grad():
        for entry in (model.shared.weight, model.shared.bias):
            entry.copy_(entry.flip(0))
        for entry in (model.depth[0].weight, model.label[0].weight):
            entry.copy_(entry.flip(1))
    actual = scores_of(name, model, structure, images)["shared"]
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-9)


def test_magnitude_is_the_groups_root_mean_square_over_the_layers_mean():
    model, structure = linear_pair(torch.tensor([[3.0], [0.0], [1.0]]), torch.tensor([[4.0, 0.0, 1.0]]))
    # Roots of 25/2, 0 and 2/2.
    expected = torch.tensor([5 / 2**0.5, 0, 1], dtype=torch.float64)
    assert_same_scores(GroupMagnitude()(structure, model), {"0": expected / expected.mean()})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_magnitude_agrees_with_one_channel_at_a_time(dtype):
    model, structure, _ = two_tasks()
    model = model.to(dtype)
    assert_same_scores(GroupMagnitude()(structure, model), reference.magnitude(model, structure))


@pytest.mark.slow
def test_magnitude_ranks_a_plain_chain_as_torch_pruning_does():
    tp = pytest.importorskip("torch_pruning")
    torch.manual_seed(0)
    model, structure = linear_pair(torch.randn(9, 5), torch.randn(5, 9))
    graph = tp.DependencyGraph().build_dependency(model, torch.randn(1, 5))
    group = graph.get_pruning_group(model[0], tp.prune_linear_out_channels, idxs=list(range(9)))
    theirs = tp.importance.GroupMagnitudeImportance(normalizer=None)(group)
    ours = GroupMagnitude()(structure, model)["0"]
    # Both slices are of size 5, so that their mean of squared norms is our mean square times 5.
    torch.testing.assert_close((5 * theirs.double()).sqrt() / (5 * theirs).sqrt().mean().double(), ours)


def test_positions_without_an_owner_count_for_no_channel():
    model, structure = linear_pair(torch.ones(3, 1), torch.ones(1, 3))
    (coupled,) = structure.coupled
    slices = tuple(replace(part, owner=torch.tensor([0, -1, 0])) for part in coupled.slices)
    structure = replace(structure, coupled=(replace(coupled, count=2, slices=slices),))
    scores = GroupMagnitude()(structure, model)["0"]
    torch.testing.assert_close(scores, torch.tensor([2.0, 0.0], dtype=torch.float64))


def test_channels_that_only_scales_know_are_scored_by_these():
    model = nn.BatchNorm1d(3)
    model.weight.data = torch.tensor([1.0, -2.0, 3.0])
    structure = HandStructure((coupled_channels("", 3, ("weight", 0, "scale")),), shapes_of(model), {})
    assert_same_scores(
        GroupMagnitude()(structure, model), {"": torch.tensor([0.5, 1, 1.5], dtype=torch.float64)}
    )


def test_tensors_of_whole_numbers_are_left_out():
    model, structure = linear_pair(torch.ones(3, 1), torch.ones(1, 3))
    expected = GroupMagnitude()(structure, model)
    model.register_buffer("index", torch.tensor([7, 0, 0]))
    (coupled,) = structure.coupled
    more = coupled_channels("", 3, ("index", 0, "producer")).slices
    structure = replace(structure, coupled=(replace(coupled, slices=coupled.slices + more),))
    assert_same_scores(GroupMagnitude()(structure, model), expected)


def test_normalize_layers_gives_a_mean_of_one_and_leaves_zeros():
    scores = normalize_layers({"a": torch.tensor([1.0, 3.0]), "b": torch.zeros(2)})
    assert scores["a"].tolist() == [0.5, 1.5]
    assert scores["b"].tolist() == [0, 0]


def test_batchnorm_takes_the_norms_scales_and_the_fallback_for_the_rest():
    model, structure, _ = two_tasks()
    scores = BatchNormScale(fallback=GroupMagnitude())(structure, model)
    gamma = model.norm.weight.detach().abs().double()
    magnitude = GroupMagnitude()(structure, model)
    assert_same_scores(scores, {**magnitude, "stem": gamma / gamma.mean()})


def test_batchnorm_averages_over_norms():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.LayerNorm(2))
    model[0].weight.data, model[1].weight.data = torch.tensor([1.0, -5.0]), torch.tensor([1.0, 1.0])
    slices = [(f"{i}.{entry}", 0, "scale") for i in (0, 1) for entry in ("weight", "bias")]
    structure = HandStructure((coupled_channels("0", 2, *slices),), shapes_of(model), {})
    assert_same_scores(
        BatchNormScale()(structure, model), {"0": torch.tensor([0.5, 1.5], dtype=torch.float64)}
    )


def test_batchnorm_refuses_channels_without_a_norm():
    model, structure, _ = two_tasks()
    with pytest.raises(
        ScoreError, match="importance `batchnorm`, but those of `shared`, `depth.0`, `label.0` have"
    ):
        BatchNormScale()(structure, model)


def test_batchnorm_shortens_a_long_list():
    model = nn.Linear(1, 2)
    coupled = tuple(coupled_channels(f"c{i}", 2, ("weight", 0, "producer")) for i in range(7))
    with pytest.raises(ScoreError, match="`c4` and 2 more have none. Take importance `magnitude`, protect"):
        BatchNormScale()(HandStructure(coupled, shapes_of(model), {}), model)


def test_taylor_of_a_linear_loss_is_known():
    # L = sum(w1 w0 x) with x = 2: each weight's product with its gradient is 2 w1 w0.
    model, structure = linear_pair(torch.tensor([[3.0], [-1.0]]), torch.tensor([[1.0, 5.0]]))
    model[0].bias.data, model[1].bias.data = torch.zeros(2), torch.zeros(1)
    scores = Taylor(lambda m: [m(torch.tensor([[2.0]])).sum()])(structure, model)
    assert scores["0"].tolist() == [2 * 2 * 3, 2 * 2 * 5]


def test_taylor_agrees_with_one_channel_at_a_time():
    model, structure, images = two_tasks()
    losses = [sum(out.square().mean() for out in model(images + i).values()) for i in range(3)]
    expected = reference.taylor(model, structure, losses)
    assert_same_scores(Taylor(SquaredOutputs([images + i for i in range(3)]))(structure, model), expected)


def test_taylor_takes_a_generator_and_does_so_under_no_grad():
    model, structure, images = two_tasks()
    expected = Taylor(lambda m: [m(images)["depth"].mean()])(structure, model)
    with torch.no_grad():
        actual = Taylor(model(images)["depth"].mean() for _ in range(2))(structure, model)
    assert_same_scores(actual, expected)
    assert not actual["label.0"].any(), "the loss does not depend on this decoder"


def test_frozen_weights_are_scored_as_others():
    model, structure, images = two_tasks()
    importance = Taylor(SquaredOutputs([images]))
    expected = importance(structure, model)
    assert_same_scores(importance(structure, model.requires_grad_(False)), expected)


class Caching(nn.Module):
    """Keeps a tensor that depends on its weight in evaluation mode, as LeViT's attention does."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 3), nn.Linear(3, 1)
        self.cache = {}

    def train(self, mode=True):
        super().train(mode)
        if mode:
            self.cache = {}
        return self

    def forward(self, values):
        if not self.training:
            self.cache.setdefault("weight", self.first.weight * 1)
        weight = self.first.weight if self.training else self.cache["weight"]
        return self.second(nn.functional.linear(values, weight))


def test_models_that_cache_in_evaluation_mode_are_scored_batch_by_batch():
    model = Caching().eval()
    coupled = coupled_channels("first", 3, ("first.weight", 0, "producer"), ("second.weight", 1, "consumer"))
    structure = HandStructure((coupled,), shapes_of(model), {})
    scores = Taylor(SquaredOutputs([torch.ones(1, 2), torch.ones(1, 2)]))(structure, model)
    assert_same_scores(scores, Taylor(SquaredOutputs([torch.ones(1, 2)]))(structure, model))
    assert not model.cache and not model.training
    copy.deepcopy(model)


def test_random_scores_depend_on_the_seed_alone():
    model, structure, _ = two_tasks()
    first, same = (RandomScores(7)(structure, model) for _ in range(2))
    assert_same_scores(first, same)
    assert not torch.equal(first["shared"], RandomScores(8)(structure, model)["shared"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["magnitude", "taylor"])
def test_weights_that_are_not_finite_are_named(name, value):
    model, structure, images = two_tasks()
    model.depth[0].weight.data[1, 2] = value
    with pytest.raises(
        ScoreError, match="tensor `depth.0.weight` to have finite entries only.*protect the layer"
    ):
        scores_of(name, model, structure, images)


def test_a_sum_that_overflows_is_no_infinite_entry():
    model, structure = linear_pair(torch.full((3, 1), 3e38), torch.ones(1, 3))
    assert model[0].weight.sum().isinf()
    assert_same_scores(GroupMagnitude()(structure, model), {"0": torch.ones(3, dtype=torch.float64)})


def test_another_model_is_refused():
    model, structure, _ = two_tasks()
    other = copy.deepcopy(model)
    other.shared = nn.Conv2d(8, 16, 1)
    with pytest.raises(
        ScoreError, match=r"`shared.weight` to be of size 12 along dimension 0, but got shape \(16, 8"
    ):
        GroupMagnitude()(structure, other)
    del other.shared
    with pytest.raises(
        ScoreError, match="`shared.weight` .* but it has none of that name. Give the model that"
    ):
        GroupMagnitude()(structure, other)


@pytest.mark.parametrize(
    "losses, message",
    [
        (lambda m: [], "to give at least one batch, but got none. A generator gives its batches once"),
        (lambda m: [m.stem.weight], r"loss `all` to be a scalar, but got shape \(8, 3, 3, 3\)"),
        (
            lambda m: [torch.tensor(1.0)],
            "loss `all` to depend on the model's parameters, but it has no gradient",
        ),
        (lambda m: [m.stem.weight.sum() * float("nan")], "loss `all` to be finite, but got nan"),
        (lambda m: [(m.stem.weight * 0).square().sum().sqrt()], "gradient of `stem.weight` to be finite"),
    ],
    ids=["no batch", "no scalar", "no gradient", "not a number", "gradient not finite"],
)
def test_losses_that_cannot_be_differentiated_are_refused(losses, message):
    model, structure, _ = two_tasks()
    with pytest.raises(ScoreError, match=message):
        Taylor(losses)(structure, model)
    assert not any(module.training for module in model.modules())


def test_unknown_importance_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="Unknown importance `magntude`, did you mean `magnitude`?"):
        make_importance("magntude")


@pytest.mark.parametrize("name", sorted(USES_LOSSES))
def test_importance_that_reads_gradients_asks_for_losses(name):
    with pytest.raises(
        ScoreError, match=f"Expected `losses` for importance `{name}`.* got None. Give the losses"
    ):
        make_importance(name)
