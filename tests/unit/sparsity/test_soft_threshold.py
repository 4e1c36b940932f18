import copy
import math

import pytest
import torch
from torch import nn
from torch.optim import Adam

from lomt.errors import SparsityTargetError, UnknownNameError
from lomt.sparsity import PUBLISHED_LOGIT, add_soft_thresholds, bake_thresholds, soft_threshold
from lomt.sparsity.soft_threshold import starting_logit
from tests.unit.sparsity.coupled_networks import IMAGES, loss_of, two_tasks

# AdapMTL's table 2 (NYU-v2, MobileNetV2): sparsity in percent of backbone and of the heads of segmentation, normals
# and depth; parameters of the four in millions.
PARAMETERS = (2.19, 51.5, 51.4, 51.4)
TABLE = {
    "SNIP": (78.46, 88.19, 92.08, 90.25, 90.01),
    "LTH": (71.32, 88.34, 92.19, 90.52, 90.08),
    "IMP": (68.49, 88.07, 95.13, 87.74, 90.01),
    "DiSparse": (65.22, 87.21, 93.55, 90.53, 90.07),
    "without adaptive thresholds": (73.61, 88.64, 92.37, 89.82, 90.04),
    "AdapMTL": (52.74, 86.18, 94.72, 90.76, 90.02),
}


def logit(tau):
    return math.log(tau / (1 - tau))


def test_the_formula():
    weight = torch.tensor([-1.0, -0.25, 0.0, 0.125, 0.75])

    assert soft_threshold(weight, torch.tensor(logit(0.25))).tolist() == pytest.approx([-0.75, 0, 0, 0, 0.5])


def test_gradients_are_those_of_finite_differences():
    weight = torch.randn(
        5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    s = torch.tensor(logit(0.4), dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(soft_threshold, (weight, s))


def test_gradient_of_the_logit_is_the_papers():
    weight = torch.tensor([-1.0, 0.2, 0.9], dtype=torch.float64)
    upstream = torch.tensor([0.3, 5.0, -0.7], dtype=torch.float64)
    s = torch.tensor(logit(0.5), dtype=torch.float64, requires_grad=True)
    (soft_threshold(weight, s) * upstream).sum().backward()

    # -g'(s) times the sum of upstream gradient and sign over the weights that are left
    assert float(s.grad) == pytest.approx(-0.25 * (0.3 * -1 + -0.7 * 1))


def test_one_logit_for_the_backbone_and_one_a_decoder():
    model = two_tasks()
    source = add_soft_thresholds(model, component_of=model.component_of, initial_logit=PUBLISHED_LOGIT)

    assert source.names == ("backbone", "depth", "segmentation")
    assert source.logits.tolist() == [-30.5] * 3
    assert "soft_thresholds.logits" in dict(model.named_parameters())


def test_the_start_changes_next_to_nothing():
    model = two_tasks()
    before = model(IMAGES)
    add_soft_thresholds(model, component_of=model.component_of)

    for task, after in model(IMAGES).items():
        torch.testing.assert_close(after, before[task], rtol=0.05, atol=0.02)
    assert model.soft_thresholds.sparsity() < 0.005


def test_shares_of_zeros_are_told_apart():
    model = two_tasks()
    source = add_soft_thresholds(model, component_of=model.component_of)
    with torch.no_grad():
        source.logits.copy_(torch.tensor([logit(0.02), logit(0.9), -50.0]))
    shares = source.component_sparsity()
    zero = {
        name: sum(int((layer.weight == 0).sum()) for layer in part.modules() if isinstance(layer, nn.Conv2d))
        / sum(layer.weight.numel() for layer in part.modules() if isinstance(layer, nn.Conv2d))
        for name, part in [("backbone", model.backbone), *model.decoders.items()]
    }

    assert shares == pytest.approx(zero)
    assert shares["depth"] == 1 and shares["segmentation"] == 0 and 0 < shares["backbone"] < 1
    assert shares["backbone"] < source.sparsity() < 1


@pytest.mark.parametrize("method", TABLE)
def test_overall_sparsity_of_the_papers_rows_is_weighted_by_parameters(method):
    *shares, overall = TABLE[method]
    layers = [nn.Linear(round(1e4 * own), 1, bias=False) for own in PARAMETERS]
    model = nn.ModuleDict(dict(zip("bsnd", layers, strict=True)))
    with torch.no_grad():
        for layer, share in zip(layers, shares, strict=True):
            layer.weight.fill_(1.0)
            layer.weight[:, : round(share / 100 * layer.in_features)] = 0
    source = add_soft_thresholds(
        model, component_of=lambda name: name[0], initial_logit=PUBLISHED_LOGIT, kinds=(nn.Linear,)
    )

    assert list(source.component_sparsity().values()) == pytest.approx([s / 100 for s in shares], abs=1e-4)
    assert 100 * source.sparsity() == pytest.approx(overall, abs=0.011)


def test_baking_leaves_the_same_weights_and_parameters():
    model = two_tasks()
    parameters = dict(model.named_parameters())
    add_soft_thresholds(model, component_of=model.component_of, initial_logit=logit(0.03))
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
    expected = {f"{name}.weight": layer.weight.detach().clone() for name, layer in layers.items()}
    before = model(IMAGES)
    bake_thresholds(model)

    assert dict(model.named_parameters()).keys() == parameters.keys()
    for name, parameter in model.named_parameters():
        assert parameter is parameters[name]
        assert torch.equal(parameter, expected.get(name, parameter))
    assert all(torch.equal(after, before[task]) for task, after in model(IMAGES).items())


def test_thresholds_are_learned_copied_and_stored():
    model = two_tasks()
    source = add_soft_thresholds(model, component_of=model.component_of, initial_logit=logit(0.01))
    twin = copy.deepcopy(model)
    optimizer = Adam(model.parameters(), lr=0.01)
    loss_of(model, 0).backward()
    optimizer.step()

    assert (source.logits != twin.soft_thresholds.logits).all()
    twin.load_state_dict(model.state_dict())
    assert all(torch.equal(after, twin(IMAGES)[task]) for task, after in model(IMAGES).items())


def test_bf16_is_computed_from_full_weights():
    model = two_tasks()
    add_soft_thresholds(model, component_of=model.component_of, initial_logit=logit(0.01))
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(model, 0)
    loss.backward()

    assert model.backbone[0].weight.dtype == torch.float32
    assert model.soft_thresholds.logits.grad.isfinite().all()


def test_thresholds_cannot_be_added_twice():
    model = two_tasks()
    add_soft_thresholds(model)

    with pytest.raises(
        SparsityTargetError, match="^Expected the model to have no thresholds yet, but got one with"
    ):
        add_soft_thresholds(model)


def test_an_unknown_component_is_named():
    model = two_tasks()
    with pytest.raises(UnknownNameError, match="Unknown component `backbon`, did you mean `backbone`"):
        add_soft_thresholds(model, component_of=model.component_of, components=("backbon",))


def test_a_model_without_such_layers_is_refused():
    with pytest.raises(
        SparsityTargetError, match="^Expected the model to have layers of kind Conv2d, but got none.$"
    ):
        add_soft_thresholds(nn.Linear(2, 2))


@pytest.mark.parametrize("level", [0.0, 1e-20, float("nan")])
def test_the_start_is_never_below_the_published_constant(level):
    assert starting_logit(level) == PUBLISHED_LOGIT
