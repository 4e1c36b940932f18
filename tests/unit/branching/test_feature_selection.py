import math

import pytest
import torch
from torch.nn import functional

from lomt.branching import FeatureSelection, SelectionError, SelectionModel, cost_factors
from lomt.models import BackboneSpec, DecoderSpec, ModelSpec, create_backbone, truncate

LAYERS = ("layer1.0", "layer2.0", "layer4.0")


def make_model(layers=LAYERS, **options):
    torch.manual_seed(0)
    spec = ModelSpec(
        backbone=BackboneSpec("test_resnet", output_stride=16),
        decoders={"depth": DecoderSpec("linear"), "scene": DecoderSpec("classifier")},
        out_channels={"depth": 1, "scene": 5},
        dense={"depth": True, "scene": False},
    )
    return SelectionModel(spec, truncate(create_backbone(spec.backbone), layers), **options)


def test_predictions_have_the_tasks_forms():
    predictions = make_model(width=4)(torch.rand(2, 3, 40, 72))

    assert {name: tuple(value.shape) for name, value in predictions.items()} == {
        "depth": (2, 1, 40, 72),
        "scene": (2, 5),
    }


def test_sums_are_what_the_formula_says():
    """A second, plain computation: normalise, resize, project and add, layer by layer and task by task."""
    torch.manual_seed(0)
    selection = FeatureSelection(
        {"fine": 4, "same": 6, "coarse": 8}, {"fine": 4, "same": 8, "coarse": 16}, 2, width=3
    )
    features = {
        "fine": torch.randn(2, 4, 8, 12),
        "same": torch.randn(2, 6, 4, 6),
        "coarse": torch.randn(2, 8, 2, 3),
    }
    sums = selection(features, (32, 48))

    for task in range(2):
        total = torch.zeros(2, 3, 4, 6)
        for name, own in features.items():
            pooled = functional.avg_pool2d(own, 2) if name == "fine" else own
            mean, variance = pooled.mean((0, 2, 3), keepdim=True), pooled.var((0, 2, 3), False, keepdim=True)
            normal = (pooled - mean) / (variance + 1e-5).sqrt()
            projected = torch.einsum("wc,bchx->bwhx", selection.weights[name][task], normal) / math.sqrt(
                own.shape[1]
            )
            total += functional.interpolate(projected, size=(4, 6), mode="bilinear", align_corners=False)
        assert torch.allclose(sums[task], total, atol=1e-5)


def test_task_without_a_layer_does_not_depend_on_it():
    model = make_model(width=4).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        for name in ("layer2.0", "layer4.0"):
            model.selection.weights[name][0] = 0
        before = model(images)
        for parameter in model.backbone.get_submodule("layer2").parameters():
            parameter.mul_(1.5)
        after = model(images)

    assert torch.equal(before["depth"], after["depth"])
    assert not torch.allclose(before["scene"], after["scene"])


def test_all_groups_start_at_equal_norm_in_units_of_their_penalty():
    model = make_model(width=4)
    factors = cost_factors({"layer1.0": 1.0, "layer2.0": 2.0, "layer4.0": 16.0})
    model.selection.set_start({name: 0.3 * factor for name, factor in factors.items()})

    for name, weight in model.selection.weights.items():
        penalty = factors[name] * math.sqrt(weight[0].numel())
        assert torch.allclose(weight.flatten(1).norm(dim=1) / penalty, torch.tensor(0.3)), name


def test_without_gradients_all_groups_die_in_the_same_step():
    """What equal starting norms are for: no layer outlives another by its size."""
    from lomt.sparsity import NestedGroupLasso

    model = make_model(width=64)
    factors = cost_factors({"layer1.0": 1.0, "layer2.0": 2.0, "layer4.0": 16.0})
    model.selection.set_start({name: 0.2 * factor for name, factor in factors.items()})
    optimizer = torch.optim.SGD(model.selection.parameters(), lr=0.1)
    lasso = NestedGroupLasso(model.selection.weights, factors, lambda_=0.1)
    lasso.attach(optimizer)
    for _ in range(15):
        for weight in model.selection.parameters():
            weight.grad = torch.zeros_like(weight)
        optimizer.step()

    last = torch.stack(list(lasso.last_alive.values()))
    assert last.min() >= 8
    assert last.max() <= 10
    assert last.max() - last.min() <= 1


def test_heads_start_at_the_best_constants():
    model = make_model(width=4)
    model.set_output_biases({"depth": torch.tensor([2.5]), "scene": torch.arange(5.0)})
    with torch.no_grad():
        for weight in model.selection.parameters():
            weight.zero_()
    predictions = model(torch.rand(2, 3, 32, 32))

    assert torch.allclose(predictions["depth"], torch.tensor(2.5))
    assert torch.allclose(predictions["scene"], torch.arange(5.0).expand(2, 5))


def test_common_stride_follows_the_deepest_layer_or_the_recipe():
    images = torch.rand(2, 3, 64, 64)
    for options, height in (({}, 8), ({"stride": 4}, 16), ({"stride": 32}, 2)):
        model = make_model(width=2, **options)
        assert model.selection(model.backbone(images), (64, 64)).shape == (2, 2, 2, height, height)


def test_single_candidate_is_refused():
    with pytest.raises(SelectionError, match=r"at least 2 candidate layers .* got `layer1.0`.*single_task"):
        make_model(("layer1.0",))
