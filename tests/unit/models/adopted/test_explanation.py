import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from torch import fx

from lomt.models import adopt, explain
from lomt.models.adopted import Explanation, Feature
from tests.reference import own_models


def feature(name, form, shape):
    return Feature(name, "block", fx.Graph().placeholder("images"), form, shape, 1)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_share_is_that_of_ridge_regression_on_unseen_images():
    source, target = feature("early", "tokens", (10, 6)), feature("late", "tokens", (10, 4))
    weight = drawn(6, 4, seed=1)
    x = drawn(40, 10, 6, seed=2) + 1
    y = x @ weight + 2 * drawn(40, 10, 4, seed=3) - 3
    explanation = Explanation(source, target, ridge=2.0)
    explanation.learn(x[:10], y[:10])
    explanation.learn(x[10:30], y[10:30])
    explanation.judge(x[30:35], y[30:35])
    explanation.judge(x[35:], y[35:])

    rows = x[:30].reshape(-1, 6).double()
    strength = 2.0 * 6 / len(rows) * rows.var(0, unbiased=False).mean().item()
    known = Ridge(alpha=strength * len(rows)).fit(rows, y[:30].reshape(-1, 4))
    wanted = r2_score(
        y[30:].reshape(-1, 4), known.predict(x[30:].reshape(-1, 6)), multioutput="variance_weighted"
    )
    assert explanation.share == pytest.approx(wanted, abs=1e-5)
    assert 0 < wanted < 1


def test_nothing_judged_is_refused():
    explanation = Explanation(feature("early", "vector", (6,)), feature("late", "vector", (4,)))
    with pytest.raises(ValueError, match="to judge an adapter on"):
        _ = explanation.share


def test_the_layer_that_features_come_from_explains_more_than_the_nearest():
    torch.manual_seed(0)
    layers = ["first", "second", "third"]
    adoption = adopt(
        own_models.Narrow(),
        [torch.empty(1, 3, 16, 24)],
        outputs={"parts": "0", "depth": "1"},
        backbone=layers,
    )
    assert adoption.layers_read("depth") == ("third",)
    backbone = adoption.backbone_part(layers, {}).eval()
    images = [(drawn(8, 3, 16, 24, seed=seed),) for seed in range(6)]

    found = explain(adoption, backbone, {"third": ["first", "second"]}, images[:4], images[4:])

    assert found["third"]["first"] > 2 * found["third"]["second"]
