import torch
from torch import nn

from lomt.structure import copy_model


class Caching(nn.Module):
    """Keeps tensors with a history, as models do that cache in eval mode."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.cache = {"biases": [self.layer.weight * 2]}
        self.last = self.layer.bias + 1

    def forward(self, features):
        return self.layer(features) + self.last + self.cache["biases"][0].sum()


def test_a_copy_has_tensors_of_its_own_with_equal_values():
    model = Caching()
    copied = copy_model(model)
    features = torch.ones(1, 3)
    torch.testing.assert_close(copied(features), model(features), rtol=0, atol=0)
    with torch.no_grad():
        copied.layer.weight.zero_()
        copied.last.zero_()
        copied.cache["biases"][0].zero_()
    for tensor in (model.layer.weight, model.last, model.cache["biases"][0]):
        assert tensor.abs().max().item() > 0


def test_the_given_model_keeps_its_tensors_and_their_history():
    model = Caching()
    cached = model.cache["biases"][0]
    copy_model(model)
    assert model.cache["biases"][0] is cached
    assert cached.grad_fn is not None


def test_a_copy_may_share_parameters_but_never_buffers():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    copied = copy_model(model, share_parameters=True)
    assert copied[0].weight is model[0].weight
    assert copied[1].running_mean is not model[1].running_mean


def test_shared_modules_and_tied_weights_stay_so():
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["c"] = model["a"]
    model["b"].weight = model["a"].weight
    copied = copy_model(model)
    assert copied["c"] is copied["a"]
    assert copied["b"].weight is copied["a"].weight
    assert copied["a"].weight is not model["a"].weight


def test_modes_and_frozen_parameters_are_copied():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[1].eval()
    model[0].bias.requires_grad_(False)
    copied = copy_model(model)
    assert [module.training for module in copied] == [True, False]
    assert not copied[0].bias.requires_grad
    assert copied[0].weight.requires_grad


def test_empty_dicts_are_copies_too_and_those_that_are_one_stay_one():
    model = Caching()
    model.cache = model.other = {}
    copied = copy_model(model)
    assert copied.cache is copied.other
    copied.cache["key"] = 1
    assert model.cache == {}
    handle = copied.layer.register_forward_hook(lambda *_: None)
    assert not model.layer._forward_hooks
    assert len(copied.layer._forward_hooks) == 1
    handle.remove()
