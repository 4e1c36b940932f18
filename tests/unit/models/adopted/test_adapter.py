import pytest
import torch
from torch import fx

from lomt.models import AdoptedSpec, AdoptionError, adopt, fit_adapters
from lomt.models.adopted.adapter import Adapter, AdapterFit
from lomt.models.adopted.features import Feature
from tests.reference import own_models


def feature(name, form, shape):
    return Feature(name, "block", fx.Graph().placeholder("images"), form, shape, 1)


FORMS = {
    "finer": (("map", (6, 16, 24)), ("map", (4, 4, 6))),
    "odd": (("map", (6, 15, 23)), ("map", (4, 8, 12))),
    "equal": (("map", (6, 8, 8)), ("map", (4, 8, 8))),
    "coarser": (("map", (6, 4, 6)), ("map", (4, 8, 12))),
    "one_pixel": (("map", (6, 4, 6)), ("map", (4, 1, 1))),
    "tokens": (("tokens", (10, 6)), ("tokens", (10, 4))),
    "pooled": (("map", (6, 4, 6)), ("vector", (4,))),
    "vector": (("vector", (6,)), ("vector", (4,))),
}


@pytest.fixture(params=FORMS, ids=FORMS)
def pair(request):
    source, target = FORMS[request.param]
    return feature("early", *source), feature("late", *target)


def drawn(shape, seed=0, count=8):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def fit(adapter, pairs):
    sums = AdapterFit(adapter)
    for source, target in pairs:
        sums.add(source, target)
    sums.finish()


def test_the_result_has_the_form_that_the_decoder_knows(pair):
    source, target = pair
    assert Adapter(source, target)(drawn(source.shape)).shape == (8, *target.shape)


def test_a_linear_map_is_found_whatever_its_mean_and_scale(pair):
    source, target = pair
    teacher = Adapter(source, target).eval()
    features = 3 * drawn(source.shape, count=400) + 2
    if target.form == "map":
        teacher.norm.weight.data.uniform_(0.5, 2)
        teacher.norm.bias.data.uniform_(-2, 2)
    wanted = teacher(features).detach()
    student = Adapter(source, target).eval()
    before = (student(features) - wanted).square().mean()
    fit(student, [(features[:100], wanted[:100]), (features[100:], wanted[100:])])
    after = (student(features) - wanted).square().mean()
    is_enlarged = source.shape[1:] < target.shape[1:] and source.form == "map"
    assert after < (0.2 if is_enlarged else 1e-3) * before
    student.train()
    assert (student(features) - wanted).square().mean() < (0.2 if is_enlarged else 1e-2) * before


def test_it_is_the_ridge_regression_of_scikit_learn():
    from sklearn.linear_model import Ridge

    source, target = feature("early", "tokens", (10, 6)), feature("late", "tokens", (10, 4))
    x, y = drawn((10, 6)), drawn((10, 4), seed=1)
    student = Adapter(source, target)
    fit(student, [(x, y)])
    rows, wanted = x.flatten(0, 1).double(), y.flatten(0, 1).double()
    strength = rows.shape[1] * (rows - rows.mean(0)).square().mean().item()
    found = Ridge(alpha=strength).fit(rows.numpy(), wanted.numpy())
    torch.testing.assert_close(
        student.project.weight.double(), torch.from_numpy(found.coef_), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(
        student.project.bias.double(), torch.from_numpy(found.intercept_), rtol=1e-5, atol=1e-6
    )


def test_what_cannot_be_mapped_is_refused():
    with pytest.raises(AdoptionError, match=r"`early` .* got tokens of shape \(10, 6\) in place of map"):
        Adapter(feature("early", "tokens", (10, 6)), feature("late", "map", (4, 8, 8)))
    with pytest.raises(AdoptionError, match="Choose another layer"):
        Adapter(feature("early", "tokens", (9, 6)), feature("late", "tokens", (10, 6)))
    with pytest.raises(ValueError, match="at least one batch"):
        fit(Adapter(feature("a", "vector", (6,)), feature("b", "vector", (4,))), [])


def test_adapters_of_a_network_come_nearer_to_what_it_computed():
    torch.manual_seed(0)
    adoption = adopt(own_models.DeepHeads(), [torch.zeros(2, 3, 64, 96)])
    spec = AdoptedSpec("none:none", {"parts": True, "depth": True}, (64, 96))
    reference = spec.cut(adoption).eval()
    network = AdoptedSpec(
        "none:none", {"parts": True, "depth": True}, (64, 96), branch_points={"parts": "encoder.layer3.0"}
    ).cut(adoption)
    images = drawn((3, 64, 96))
    wanted = reference(images)["parts"]
    before = (network.eval()(images)["parts"] - wanted).square().mean()
    network.train()
    fit_adapters(network, reference, [images])
    assert network.training
    assert (network.eval()(images)["parts"] - wanted).square().mean() < 0.5 * before
    assert torch.equal(network(images)["depth"], reference(images)["depth"])
