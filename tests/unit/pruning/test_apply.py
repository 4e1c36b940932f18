import re

import pytest
import torch
from torch import nn

from lomt.errors import ArtifactError
from lomt.pruning.apply import apply_plan, shrink_in_place, slice_tensors
from lomt.pruning.plan import AttributeChange, PruningPlan, Replacement
from lomt.structure import trace_structure
from tests.reference.pruning_laws import (
    assert_same_function,
    assert_untouched,
    liven,
    plan_for,
    random_masks,
    state_of,
)

IMAGES = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def plan(tensors=None, attributes=(), replaced=()):
    return PruningPlan(
        keep={},
        tensors=tensors or {},
        attributes=attributes,
        replaced=replaced,
        protected={},
        counts={},
        params_before=0,
        params_after=0,
        macs_before=0,
        macs_after=0,
    )


def convolutions():
    return liven(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 8, 3, groups=8),
            nn.ConvTranspose2d(8, 6, 2),
            nn.Conv2d(6, 2, 1),
        )
    )


def test_a_smaller_model_is_returned_and_the_given_one_left_alone():
    model = convolutions().train()
    model[1].eval()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    structure = trace_structure(model, IMAGES)
    before = state_of(model)
    smaller = apply_plan(model, plan_for(model, structure, {"0": torch.arange(8) < 3}))
    assert_untouched(model, before)
    assert smaller[0].weight.shape == (3, 3, 3, 3)
    assert [module.training for module in smaller] == [True, False, True, True, True]


def test_layers_say_their_new_sizes():
    model = convolutions()
    structure = trace_structure(model, IMAGES)
    keep = {"0": torch.arange(8) < 3, "3": torch.arange(6) < 4}
    smaller = apply_plan(model, plan_for(model, structure, keep))
    sizes = [(own.in_channels, own.out_channels) for own in smaller if not isinstance(own, nn.BatchNorm2d)]
    assert sizes == [(3, 3), (3, 3), (3, 4), (4, 2)]
    assert smaller[1].num_features == 3
    assert smaller[2].groups == 3


def test_linear_and_embedding_layers_say_their_new_sizes():
    model = nn.Sequential(nn.Embedding(5, 6), nn.Linear(6, 4), nn.Linear(4, 2))
    tokens = torch.tensor([[0, 3]])
    structure = trace_structure(model, tokens)
    keep = {own.name: torch.arange(own.count) < own.count // 2 for own in structure.prunable}
    smaller = apply_plan(model, plan_for(model, structure, keep))
    assert (smaller[0].num_embeddings, smaller[0].embedding_dim) == (5, 3)
    assert (smaller[1].in_features, smaller[1].out_features) == (3, 2)


def test_a_recurrent_layer_runs_with_its_new_weights():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.gru, self.leave = (
                nn.Linear(4, 6),
                nn.GRU(6, 3, batch_first=True),
                nn.Linear(3, 2),
            )

        def forward(self, tokens):
            return self.leave(self.gru(self.enter(tokens))[0])

    model, tokens = liven(Recurrent()), torch.randn(2, 5, 4, dtype=torch.float64)
    structure = trace_structure(model, tokens)
    smaller = apply_plan(model, plan_for(model, structure, {"enter": torch.arange(6) < 4}))
    assert smaller.gru.input_size == 4
    assert smaller(tokens).shape == (2, 5, 2)


def test_an_empty_plan_changes_nothing():
    model = convolutions()
    assert_same_function(model, apply_plan(model, plan()), IMAGES, 0)


def test_tied_weights_and_frozen_parameters_stay_so():
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    model["b"].weight = model["a"].weight
    model["a"].bias.requires_grad_(False)
    slice_tensors(model, {"a.weight": {1: torch.tensor([0, 2])}, "a.bias": {0: torch.tensor([1])}})
    assert model["b"].weight is model["a"].weight
    assert model["b"].weight.shape == (4, 2)
    assert not model["a"].bias.requires_grad
    assert isinstance(model["a"].bias, nn.Parameter)


def test_buffers_and_plain_attributes_are_cut_too():
    model = nn.Module()
    model.register_buffer("index", torch.arange(6).reshape(2, 3))
    model.anchors = torch.arange(4.0)
    slice_tensors(model, {"index": {1: torch.tensor([0, 2])}, "anchors": {0: torch.tensor([3, 1])}})
    assert model.index.tolist() == [[0, 2], [3, 5]]
    assert model.anchors.tolist() == [3.0, 1.0]
    assert list(model.state_dict()) == ["index"]


def test_numbers_in_lists_and_tuples_are_set_in_place_of_the_old_ones():
    model = nn.Sequential(nn.LayerNorm((2, 6)))
    model.sizes = [3, 4]
    changes = (AttributeChange("0", "normalized_shape", 1, 5), AttributeChange("", "sizes", 0, 1))
    shrink_in_place(model, plan(attributes=changes))
    assert model[0].normalized_shape == (2, 5)
    assert model.sizes == [1, 4]


def test_caches_made_in_eval_mode_are_forgotten():
    class Caching(nn.Linear):
        cache = None

        def train(self, mode=True):
            if mode:
                self.cache = None
            return super().train(mode)

        def forward(self, features):
            if self.cache is None:
                self.cache = self.weight * 2
            return features @ self.cache.t()

    model = liven(nn.Sequential(nn.Linear(3, 4), Caching(4, 2)))
    features = torch.randn(1, 3, dtype=torch.float64)
    model(features)
    structure = trace_structure(model, features)
    smaller = apply_plan(model, plan_for(model, structure, {"0": torch.arange(4) < 2}))
    assert smaller(features).shape == (1, 2)
    assert not smaller.training
    assert model[1].cache is not None


def test_modules_are_replaced():
    model = apply_plan(convolutions(), plan(replaced=(Replacement("1", "identity"),)))
    assert isinstance(model[1], nn.Identity)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            plan({"9.weight": {0: (0,)}}),
            "Expected the model to have the tensor `9.weight`, but it does not: the plan was made for another.",
        ),
        (
            plan({"0.weight": {0: (0, 8)}}),
            "Expected `0.weight` to have position 8 in dimension 0, but its shape is (8, 3, 3, 3): the plan was made "
            "for another model.",
        ),
        (
            plan({"0.bias": {1: (0, 2)}}),
            "Expected `0.bias` to have position 2 in dimension 1, but its shape is (8,): the plan was made for "
            "another model.",
        ),
        (
            plan(attributes=(AttributeChange("block", "num_heads", None, 2),)),
            "Expected the model to have the module `block`, but it does not: the plan was made for another.",
        ),
        (
            plan(attributes=(AttributeChange("0", "num_heads", None, 2),)),
            "Expected module `0` to have the number `num_heads`, but it does not: the plan was made for another "
            "model.",
        ),
        (
            plan(attributes=(AttributeChange("0", "stride", 5, 2),)),
            "Expected module `0` to have the number `stride[5]`, but it does not: the plan was made for another "
            "model.",
        ),
        (
            plan(replaced=(Replacement("block", "identity"),)),
            "Expected the model to have the module `block`, but it does not: the plan was made for another.",
        ),
        (
            plan(replaced=(Replacement("0", "free_sizes", {"function": "forward"}),)),
            "Expected a plan that says which sizes of `0` to leave free, but got {'function': 'forward'}.",
        ),
    ],
    ids=["tensor", "position", "dimension", "module", "attribute", "entry", "replaced", "free sizes"],
)
def test_a_plan_for_another_model_is_an_error_and_changes_nothing(made, message):
    model = convolutions()
    before = state_of(model)
    with pytest.raises(ArtifactError, match=f"^{re.escape(message)}$"):
        apply_plan(model, made)
    assert_untouched(model, before)


def test_the_same_random_cut_twice_is_the_same_model():
    model = convolutions()
    structure = trace_structure(model, IMAGES)
    keep = random_masks(structure.prunable, torch.Generator().manual_seed(0))
    first, second = (apply_plan(model, plan_for(model, structure, keep)) for _ in range(2))
    assert_same_function(first, second, IMAGES, 0)
