import pytest
import torch

from lomt.models.example_inputs import parse_inputs


def test_one_shape_is_a_tensor_with_repeatable_values():
    tensor = parse_inputs(["1x3x8x4"])

    assert (tensor.shape, tensor.dtype) == ((1, 3, 8, 4), torch.float32)
    assert torch.equal(tensor, parse_inputs(["1x3x8x4"]))
    assert not torch.equal(tensor, parse_inputs(["1x3x8x4"], seed=1))
    assert 0.5 < tensor.std() < 1.5


def test_several_shapes_are_a_tuple():
    first, second = parse_inputs(["1x3x8x8", "2"])

    assert (first.shape, second.shape) == ((1, 3, 8, 8), (2,))


def test_names_make_a_dictionary():
    inputs = parse_inputs(["image=1x3x8x8", "Ids=1x16:int64"])

    assert list(inputs) == ["image", "Ids"]
    assert inputs["Ids"].dtype == torch.int64
    assert set(inputs["Ids"].unique().tolist()) == {0, 1}


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "bool", "uint8"])
def test_types(dtype):
    assert parse_inputs([f"2x2:{dtype}"]).dtype == getattr(torch, dtype)


@pytest.mark.parametrize("text", ["", "3x", "axb", "1x0x3", "1,3,8,8", "=1x3", "-1x3"])
def test_what_is_no_shape(text):
    with pytest.raises(ValueError, match="Expected `--input` to be a shape such as 1x3x224x224.* but got "):
        parse_inputs([text])


def test_unknown_type():
    with pytest.raises(ValueError, match="to be one of float32, .*, but got 1x3:float3"):
        parse_inputs(["1x3:float3"])


@pytest.mark.parametrize("texts", [["a=1x3", "1x3"], ["a=1x3", "a=1x3"]], ids=["one_without", "twice"])
def test_names_for_all_or_none(texts):
    with pytest.raises(ValueError, match="to have a name of its own, or none to have one, but got a=1x3, "):
        parse_inputs(texts)


def test_none():
    with pytest.raises(
        ValueError, match="Expected at least one `--input`, such as 1x3x224x224, but got none"
    ):
        parse_inputs([])
