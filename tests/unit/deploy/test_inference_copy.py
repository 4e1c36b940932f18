import pytest
import torch
from torch import nn

from lomt.deploy.inference_copy import inference_copy, task_outputs
from tests.unit.deploy.networks import MixedNet, mixed_net


class Answers(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, images):
        return self.answer


def test_the_copy_is_float32_and_evaluating_and_the_model_is_as_before():
    model = mixed_net().to(torch.bfloat16).train()
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    copy = inference_copy(model)
    assert all(value.dtype == torch.float32 for value in copy.parameters())
    assert not any(module.training for module in copy.modules())
    assert model.training and model.stem.training and not model.norm.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert copy.stem.weight.data_ptr() != model.stem.weight.data_ptr()


def test_outputs_are_given_by_name():
    outputs = task_outputs(mixed_net(), MixedNet.example_inputs(2))
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "scene": (2, 5),
        "relu": (2, 6, 8, 12),
        "depth": (2, 1, 8, 12),
        "mean": (2, 1, 8, 12),
    }


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        (torch.ones(1), ["output"]),
        ((torch.ones(1), [torch.ones(2)]), ["0", "1.0"]),
        ({"depth": torch.ones(1), "count": 3}, ["depth"]),
    ],
)
def test_other_answers_are_named_by_place(answer, names):
    assert list(task_outputs(Answers(answer), MixedNet.example_inputs())) == names


@pytest.mark.parametrize(("answer", "kind"), [({"depth": [1.0]}, "dict"), ({}, "dict"), (None, "NoneType")])
def test_answers_without_tensors_are_refused(answer, kind):
    with pytest.raises(TypeError) as caught:
        task_outputs(Answers(answer), MixedNet.example_inputs())
    assert str(caught.value) == (
        "Expected `model` to return tensors, best a dictionary of task name → tensor, "
        f"but got {kind} without any."
    )
