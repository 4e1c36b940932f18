from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from lomt.structure import TraceError, named_outputs, named_tensors, run_model, trace_structure

Pair = namedtuple("Pair", "depth label")


@dataclass
class Result:
    depth: torch.Tensor
    rest: Any = None


A, B = torch.zeros(1), torch.ones(2)


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        (A, ["output"]),
        ((A, B), ["0", "1"]),
        ([A, [B, A]], ["0", "1.0", "1.1"]),
        ({"depth": A, "label": B}, ["depth", "label"]),
        (OrderedDict(depth=A, aux={"depth": B}), ["depth", "aux.depth"]),
        (Pair(A, B), ["depth", "label"]),
        (Result(A, Pair(B, A)), ["depth", "rest.depth", "rest.label"]),
        (Result(A), ["depth"]),
        ({"depth": A, "shape": (3, 4), "note": "x"}, ["depth"]),
        (None, []),
        ([], []),
    ],
    ids=lambda value: type(value).__name__,
)
def test_outputs_are_named_by_keys_fields_and_positions(outputs, names):
    assert list(named_outputs(outputs)) == names


def test_named_tensors_are_parameters_buffers_and_plain_attributes():
    model = nn.Sequential(nn.BatchNorm1d(2, affine=False), nn.Linear(2, 2, bias=False))
    model.anchors = torch.zeros(3)
    model.twin = model[1]
    assert list(named_tensors(model)) == [
        "anchors",
        "0.running_mean",
        "0.running_var",
        "0.num_batches_tracked",
        "1.weight",
    ]


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 4), nn.Linear(2, 4)
        self.head = nn.Linear(4, 1)

    def forward(self, first, second):
        return self.head(self.left(first) + self.right(second))


@pytest.mark.parametrize(
    "inputs",
    [
        (torch.ones(1, 3), torch.ones(1, 2)),
        [torch.ones(1, 3), torch.ones(1, 2)],
        {"second": torch.ones(1, 2), "first": torch.ones(1, 3)},
    ],
    ids=["tuple", "list", "dict"],
)
def test_inputs_are_several_in_order_or_by_name(inputs):
    model = Named()
    assert run_model(model, inputs).shape == (1, 1)
    structure = trace_structure(model, inputs)
    assert [own.name for own in structure.prunable] == ["left"]
    assert structure.prunable[0].producers == ("left", "right")


def test_a_model_that_raises_is_an_error_with_the_shapes_and_what_it_raised():
    expected = (
        r"Expected the model to run on example inputs of shape \(1, 3\), \(1, 5\), but it raised "
        r"RuntimeError: .*shapes cannot be multiplied"
    )
    with pytest.raises(TraceError, match=expected):
        trace_structure(Named(), (torch.ones(1, 3), torch.ones(1, 5)))


class NoTensor(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, features):
        return float(self.layer(features).sum())


def test_a_model_without_tensors_among_its_outputs_is_an_error():
    expected = (
        "Expected the model to return a tensor, or tensors in a dict, list, tuple or dataclass, but got none."
    )
    with pytest.raises(TraceError, match=expected):
        trace_structure(NoTensor(), torch.ones(1, 2))


def test_hooks_that_tracing_needs_are_gone_afterwards_also_after_an_error():
    from torch.nn.modules import module as hooks

    before = (len(hooks._global_forward_hooks), len(hooks._global_forward_pre_hooks))
    trace_structure(NoisyNet(), torch.ones(1, 2))
    with pytest.raises(TraceError):
        trace_structure(NoisyNet(), torch.ones(1, 3))
    assert (len(hooks._global_forward_hooks), len(hooks._global_forward_pre_hooks)) == before


class NoisyNet(nn.Module):
    """Calls a submodule that raises, and goes on."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 4)
        self.broken = nn.Linear(7, 7)
        self.head = nn.Linear(4, 1)

    def forward(self, features):
        try:
            self.broken(features)
        except RuntimeError:
            features = features + 0
        return self.head(self.layer(features))


def test_the_layer_that_runs_is_known_after_another_one_raised():
    structure = trace_structure(NoisyNet(), torch.ones(1, 2))
    assert structure.layer_macs() == {"layer": 8, "head": 4}


def test_tracing_takes_no_gradients_and_needs_none():
    with torch.inference_mode():
        structure = trace_structure(Named(), (torch.ones(1, 3), torch.ones(1, 2)))
    assert [own.name for own in structure.prunable] == ["left"]
