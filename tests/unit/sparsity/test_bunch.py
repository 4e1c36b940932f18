import numpy as np
import pytest
import torch

from lomt.sparsity import adam_group_soft_threshold, bunch, group_soft_threshold, group_weight, rows
from lomt.sparsity.bunch import Bunch, Layer, LayerStep
from lomt.sparsity.rows import Scratch
from lomt.structure import LayerGroups
from tests.reference import prox as reference

# shape, conv_groups
WEIGHTS = {
    "3x3": ((12, 7, 3, 3), 1),
    "1x1": ((12, 7, 1, 1), 1),
    "grouped": ((12, 3, 3, 3), 2),
    "depthwise": ((12, 1, 3, 3), 12),
    "linear": ((12, 7), 1),
}
EPS = 1e-8
MOST_RESIDUAL = 1e-12


@pytest.fixture(params=["one piece", "many pieces"])
def pieces(request, monkeypatch):
    if request.param == "many pieces":
        monkeypatch.setattr(rows, "_CHUNK", 64)


def layer(kind, axis="in", dtype=torch.float32, memory_format=torch.contiguous_format, seed=0):
    """Return a weight, second moments of mixed sizes, and the groups; two groups are nearly zero."""
    generator = torch.Generator().manual_seed(seed)
    shape, conv_groups = WEIGHTS[kind]
    count = shape[0] if axis == "out" else shape[1] * conv_groups
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    first, _, third, *_ = reference.groups_of(weight, axis, conv_groups)
    weight.view(-1)[first + third] *= 1e-4
    moment = 10 ** (torch.rand(shape, generator=generator, dtype=torch.float64) * 4 - 10)
    if len(shape) == 4:
        weight, moment = (x.to(memory_format=memory_format) for x in (weight, moment))
    groups = LayerGroups("layer", axis, count, weight.numel() // count, conv_groups)
    return weight.to(dtype), moment.to(dtype), groups


def denominators(moment, correction=1.0):
    return (moment.double() / correction).sqrt() + EPS


def in_adam(weight, moment, groups, strength, norms=None, correction=1.0):
    layer = Bunch([Layer("layer", weight, groups, moment)], Scratch())
    layer.set_norms({} if norms is None else {"layer": norms})
    layer.step_in_adam([LayerStep(strength, correction, EPS)])
    return layer.norms()["layer"]


def starting(norms):
    return torch.stack([norms, norms])


def in_euclid(weight, groups, strength):
    Bunch([Layer("layer", weight, groups)], Scratch()).step_euclidean([LayerStep(strength)])


def exact_in_adam(weight, moment, groups, strength, correction=1.0):
    tau = strength * group_weight(groups.size)
    metric = denominators(moment, correction)
    return adam_group_soft_threshold(weight.double(), metric, tau, groups.axis, groups.conv_groups)


def assert_close_and_equally_zero(ours, exact):
    dtype = ours.dtype
    rtol = 4 * torch.finfo(dtype if dtype == torch.bfloat16 else torch.float32).eps
    torch.testing.assert_close(ours.double(), exact, rtol=rtol, atol=rtol * float(exact.abs().max()) * 0.1)
    assert torch.equal(ours == 0, exact == 0)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("axis", ["in", "out"])
@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.usefixtures("pieces")
def test_steps_in_place_are_the_exact_ones(kind, axis, dtype, memory_format):
    weight, moment, groups = layer(kind, axis, dtype, memory_format)
    before = weight.clone()
    in_euclid(weight, groups, 0.05)
    tau = 0.05 * group_weight(groups.size)
    exact = group_soft_threshold(before.double(), tau, axis, groups.conv_groups)
    assert 0 < (exact == 0).sum() < exact.numel()
    assert_close_and_equally_zero(weight, exact)

    weight = before.clone()
    norms = in_adam(weight, moment, groups, 1e-6)
    exact = exact_in_adam(before, moment, groups, 1e-6)
    assert 0 < (exact == 0).sum() < exact.numel()
    assert_close_and_equally_zero(weight, exact)
    torch.testing.assert_close(norms[1], layer_norms(exact, groups).to(norms.dtype), rtol=1e-5, atol=0)


def layer_norms(weight, groups):
    listed = reference.groups_of(weight, groups.axis, groups.conv_groups)
    return torch.stack([weight.flatten()[places].norm() for places in listed])


@pytest.mark.parametrize("start", ["none", "too small", "too large", "far too large", "zero", "not finite"])
@pytest.mark.parametrize("strength", [1e-12, 1e-8, 1e-6, 1e-5, 1.0])
def test_where_newton_starts_does_not_matter(start, strength):
    weight, moment, groups = layer("3x3")
    before = weight.clone()
    norms = {
        "none": None,
        "too small": layer_norms(weight, groups) * 0.3,
        "too large": layer_norms(weight, groups) * 3,
        "far too large": torch.full((groups.count,), 1e30),
        "zero": torch.zeros(groups.count),
        "not finite": torch.full((groups.count,), torch.nan),
    }[start]
    in_adam(weight, moment, groups, strength, norms if norms is None else starting(norms))
    assert_close_and_equally_zero(weight, exact_in_adam(before, moment, groups, strength))


def test_a_step_from_the_norms_before_takes_one_pass(monkeypatch):
    passes = []
    sweep = Bunch._sweep
    monkeypatch.setattr(Bunch, "_sweep", lambda *args, **kwargs: passes.append(1) or sweep(*args, **kwargs))
    monkeypatch.setattr(bunch, "solve_norms", lambda *args: pytest.fail("not settled"))
    weight, moment, groups = layer("3x3")
    norms = None
    weight[:, [0, 2]] *= 1e4
    generator = torch.Generator().manual_seed(0)
    first = 0
    for _ in range(5):
        weight *= 1 + 1e-2 * torch.randn(weight.shape, generator=generator)
        norms = in_adam(weight, moment, groups, 1e-8, norms)
        first = first or len(passes)
    assert len(passes) == first + 4


def test_groups_that_shrink_steadily_settle_in_one_pass(monkeypatch):
    passes = []
    sweep = Bunch._sweep
    monkeypatch.setattr(Bunch, "_sweep", lambda *args, **kwargs: passes.append(1) or sweep(*args, **kwargs))
    weight, moment, groups = layer("1x1")
    weight[:, [0, 2]] *= 1e4
    made = Bunch([Layer("layer", weight, groups, moment)], Scratch())
    for _ in range(6):
        made.step_in_adam([LayerStep(1.5e-6, eps=EPS)])
        passes.append(0)
    start, last = made.norms()["layer"]
    assert 0.01 < 1 - float((start / last).min()) < 0.1
    assert passes[-6:] == [1, 0] * 3


def test_dead_groups_come_back_when_they_grow():
    weight, moment, groups = layer("3x3")
    norms = in_adam(weight, moment, groups, 1e-6)
    assert (norms[1] == 0).any()
    weight += 1
    before = weight.clone()
    assert (in_adam(weight, moment, groups, 1e-6, norms)[1] > 0).all()
    assert_close_and_equally_zero(weight, exact_in_adam(before, moment, groups, 1e-6))


def test_the_bias_correction_divides_the_second_moments():
    weight, moment, groups = layer("3x3")
    before = weight.clone()
    in_adam(weight, moment, groups, 1e-6, correction=0.001)
    assert_close_and_equally_zero(weight, exact_in_adam(before, moment, groups, 1e-6, 0.001))


@pytest.mark.parametrize("seed", range(20))
def test_double_precision_is_optimal_to_the_last_digits(seed):
    weight, moment, groups = layer("1x1", dtype=torch.float64, seed=seed)
    scale = 10.0 ** np.random.default_rng(seed).uniform(-8, 8)
    weight *= scale
    before, strength = weight.clone(), 1e-6 * scale
    in_adam(weight, moment, groups, strength)
    tau, metric = strength * group_weight(groups.size), denominators(moment)
    for c in range(groups.count):
        w, d, x = (values[:, c].flatten().numpy() for values in (before, metric, weight))
        assert reference.residual(x, w, d, tau) <= MOST_RESIDUAL


@pytest.mark.parametrize("norm", [1e-25, 1e-12, 1.0, 1e12, 1e25])
@pytest.mark.parametrize("share", [0.5, 2.0])
def test_squares_of_float32_neither_overflow_nor_underflow(norm, share):
    weight = torch.tensor([[3.0, 0.0], [4.0, 0.0]]) * (norm / 5)
    before = weight.clone()
    groups = LayerGroups("layer", "in", 2, 2)
    strength = share * norm / group_weight(2)
    in_euclid(weight, groups, strength)
    torch.testing.assert_close(weight, before * max(0.0, 1 - share), rtol=1e-5, atol=0)
    weight = before.clone()
    moment = torch.full_like(weight, 1e-8)
    in_adam(weight, moment, groups, strength * (1e-4 + EPS))
    torch.testing.assert_close(weight, before * max(0.0, 1 - share), rtol=1e-5, atol=0)


def test_a_tiny_threshold_beside_large_weights_changes_nothing():
    weight = torch.tensor([[1e22], [1e22]])
    in_euclid(weight, LayerGroups("layer", "in", 1, 2), 1e-4)
    assert weight.tolist() == [[pytest.approx(1e22)]] * 2


def test_equality_means_zero_in_adams_metric_too():
    weight = torch.tensor([[3.0], [4.0]])
    # sqrt(1/4 + 0) + 1/2 = 1, and the threshold is 5
    moment = torch.full_like(weight, 0.25)
    layer = Bunch([Layer("layer", weight, LayerGroups("layer", "in", 1, 2), moment)], Scratch())
    assert 5 / group_weight(2) * group_weight(2) == 5
    layer.step_in_adam([LayerStep(5 / group_weight(2), eps=0.5)])
    assert not weight.any()
    assert layer.norms()["layer"].tolist() == [[0.0], [0.0]]


def test_several_layers_at_once_are_the_same_as_one_by_one():
    kinds = ["3x3", "depthwise", "1x1", "grouped"]
    strengths = [1e-6, 2e-6, 5e-7, 1e-6]
    together, apart = ([layer(kind) for kind in kinds] for _ in range(2))
    layers = [
        Layer(kind, w, groups, moment) for kind, (w, moment, groups) in zip(kinds, together, strict=True)
    ]
    all_of_them = Bunch(layers, Scratch())
    all_of_them.step_in_adam([LayerStep(strength, eps=EPS) for strength in strengths])
    for kind, (weight, moment, groups), strength, (joint, *_) in zip(
        kinds, apart, strengths, together, strict=True
    ):
        norms = in_adam(weight, moment, groups, strength)
        torch.testing.assert_close(all_of_them.norms()[kind], norms, rtol=1e-6, atol=0)
        torch.testing.assert_close(joint, weight, rtol=1e-6, atol=1e-7)
    all_of_them.step_euclidean([LayerStep(1e4 * strength) for strength in strengths])
    for (weight, _, groups), strength, (joint, *_) in zip(apart, strengths, together, strict=True):
        in_euclid(weight, groups, 1e4 * strength)
        torch.testing.assert_close(joint, weight, rtol=1e-6, atol=1e-7)


def test_weights_and_moments_in_different_memory_orders():
    weight, moment, groups = layer("3x3")
    before = weight.clone()
    weight = weight.to(memory_format=torch.channels_last)
    in_adam(weight, moment, groups, 1e-6)
    assert_close_and_equally_zero(weight, exact_in_adam(before, moment, groups, 1e-6))
    scattered = torch.empty(3, 3, 7, 12).permute(3, 2, 0, 1).copy_(before)
    in_euclid(scattered, groups, 0.05)
    tau = 0.05 * group_weight(groups.size)
    assert_close_and_equally_zero(scattered, group_soft_threshold(before.double(), tau, "in"))


def test_a_bunch_knows_the_tensors_it_was_made_for():
    weight, moment, groups = layer("3x3")
    made = Bunch([Layer("layer", weight, groups, moment)], Scratch())
    assert made.holds([Layer("layer", weight, groups, moment)])
    assert made.holds([Layer("layer", weight.detach(), groups, moment)])
    for others in (
        [],
        [Layer("other", weight, groups, moment)],
        [Layer("layer", weight.clone(), groups, moment)],
        [Layer("layer", weight, groups, moment.clone())],
        [Layer("layer", weight, groups)],
        [Layer("layer", weight, groups, moment)] * 2,
    ):
        assert not made.holds(others)


def test_a_bunch_is_used_again_and_again():
    weight, moment, groups = layer("3x3", dtype=torch.bfloat16)
    made = Bunch([Layer("layer", weight, groups, moment)], Scratch())
    for _ in range(3):
        weight += 0.1
        moment *= 1.1
        before = weight.clone()
        made.step_in_adam([LayerStep(1e-6, eps=EPS)])
        assert_close_and_equally_zero(weight, exact_in_adam(before, moment, groups, 1e-6))
