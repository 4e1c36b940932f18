import copy

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


def test_buffers_that_are_views_of_one_storage_stay_so():
    model = nn.Module()
    model.register_buffer("whole", torch.zeros(4))
    model.register_buffer("view", model.whole.view(2, 2))
    model.register_buffer("part", model.whole[1:])
    copied = copy_model(model)
    copied.whole += 1
    assert copied.view.tolist() == [[1, 1], [1, 1]]
    assert copied.part.tolist() == [1, 1, 1]
    assert not model.whole.any()


def test_a_layout_that_is_not_contiguous_is_kept():
    model = nn.Module()
    model.register_buffer("table", torch.arange(6.0).reshape(2, 3).T)
    copied = copy_model(model)
    assert copied.table.stride() == model.table.stride()
    assert torch.equal(copied.table, model.table)


class Own(nn.Linear):
    """Says by itself how it is copied."""

    def __deepcopy__(self, memo):
        copied = Own(self.in_features, self.out_features)
        copied.is_own = True
        return copied


class Counting(nn.Linear):
    """Is told when its state is put back."""

    def __setstate__(self, state):
        super().__setstate__(state)
        self.times_restored = getattr(self, "times_restored", 0) + 1


def test_a_module_that_says_how_it_is_copied_is_copied_so():
    model = nn.Sequential(Own(2, 2), Counting(2, 2))
    copied = copy_model(model)
    assert copied[0].is_own
    assert copied[1].times_restored == 1


def test_modules_kept_in_lists_and_by_other_objects_are_the_copies():
    class Holder:
        def __init__(self, module):
            self.module = module

    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    model.listed = [model[0]]
    model.held = Holder(model[0])
    model.around = Holder(model)
    copied = copy_model(model)
    assert copied.listed[0] is copied[0]
    assert copied.held.module is copied[0]
    assert copied.around.module is copied
    assert copied[0] is not model[0]


def test_it_copies_what_deepcopy_copies():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.MultiheadAttention(4, 2), nn.LSTM(4, 4)
    )
    expected, copied = copy.deepcopy(model), copy_model(model)
    pairs = zip(expected.modules(), copied.modules(), strict=True)
    for first, second in pairs:
        assert type(first) is type(second)
        assert list(vars(first)) == list(vars(second))
    for name, value in expected.state_dict().items():
        assert torch.equal(copied.state_dict()[name], value)
    weights = {id(own) for own in copied[3].parameters()}
    assert all(id(own) in weights for own in copied[3]._flat_weights)
