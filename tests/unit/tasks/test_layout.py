import pytest
import torch

from lomt.tasks import KINDS, TensorLayout


@pytest.mark.parametrize("kind", KINDS)
def test_finds_the_labelled_entries(kind, batch_of, task_of):
    _, target, ignored = batch_of(kind)
    valid = task_of(kind).loss.layout.find_valid(target)
    assert torch.equal(valid, ~ignored)


def test_depth_that_is_infinite_or_nan_is_ignored():
    depths = torch.tensor([1.0, torch.inf, torch.nan, -2.0]).view(1, 1, 2, 2)
    assert TensorLayout("depth", "depth", 1).find_valid(depths).flatten().tolist() == [
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [None, 0], ids=["whole", "empty"])
def test_accepts_what_fits(count, kind, batch_of, task_of):
    prediction, target, _ = batch_of(kind)
    task = task_of(kind)
    task.check(prediction[:count], target[:count])
    assert not task.loss.layout.is_out_of_range(target[:count])


@pytest.mark.parametrize("entry", ["loss", "statistics"])
@pytest.mark.parametrize("label", [5, -2, 255])
def test_refuses_labels_out_of_range(entry, label, batch_of, task_of):
    task = task_of("segmentation")
    prediction, target, _ = batch_of("segmentation")
    target[1, 2, 3] = label
    message = (
        f"Expected labels of task `segmentation` to be 0 to 4, or -1 where ignored, but got {label}. "
        "Map other labels, such as an ignore label of 255, to -1."
    )
    with pytest.raises(ValueError) as caught:
        task.loss(prediction, target) if entry == "loss" else task.metrics.statistics(prediction, target)
    assert str(caught.value) == message


@pytest.mark.parametrize("kind", ["edges", "keypoints", "multilabel"])
@pytest.mark.parametrize("value", [255.0, torch.nan])
def test_refuses_values_above_one(kind, value, batch_of, task_of):
    prediction, target, _ = batch_of(kind)
    target.view(-1)[3] = value
    with pytest.raises(ValueError) as caught:
        task_of(kind).check(prediction, target)
    assert str(caught.value) == (
        f"Expected `target` of task `{kind}` to lie in 0 to 1, or below 0 where ignored, but got {value:g}. "
        "Divide 8-bit maps by 255."
    )


def test_range_check_does_not_wait_for_the_device(device):
    layout = TensorLayout("scene", "classification", 3)
    labels = torch.tensor([0, 3], device=device)
    assert layout.is_out_of_range(labels).device.type == device
    assert layout.is_out_of_range(labels).item() is True
    assert layout.is_out_of_range(labels[:1]).item() is False


@pytest.mark.parametrize(
    ("kind", "channels", "shape", "wanted"),
    [
        ("depth", 1, (2, 3, 4, 4), "(batch, 1, height, width)"),
        ("segmentation", 5, (2, 5), "(batch, 5, height, width)"),
        ("classification", 4, (2, 4, 1, 1), "(batch, 4)"),
    ],
)
def test_refuses_predictions_of_another_shape(kind, channels, shape, wanted):
    with pytest.raises(ValueError) as caught:
        TensorLayout("mine", kind, channels).check(torch.zeros(shape), torch.zeros(2))
    assert (
        str(caught.value) == f"Expected `prediction` of task `mine` to have shape {wanted}, but got {shape}."
    )


@pytest.mark.parametrize(
    ("kind", "channels", "shape", "target_shape", "wanted"),
    [
        ("segmentation", 5, (2, 5, 4, 6), (2, 4, 5), "(2, 4, 6)"),
        ("segmentation", 5, (2, 5, 4, 6), (2, 1, 4, 6), "(2, 4, 6)"),
        ("classification", 4, (2, 4), (3,), "(2,)"),
        ("depth", 1, (2, 1, 4, 6), (2, 4, 6), "(2, 1, 4, 6)"),
    ],
)
def test_refuses_targets_of_another_shape(kind, channels, shape, target_shape, wanted):
    with pytest.raises(ValueError) as caught:
        TensorLayout("mine", kind, channels).check(torch.zeros(shape), torch.zeros(target_shape))
    assert str(caught.value) == (
        f"Expected `target` of task `mine` to have shape {wanted}, as the prediction's shape {shape} "
        f"asks for, but got {target_shape}."
    )


@pytest.mark.parametrize(
    ("kind", "prediction", "target", "message"),
    [
        ("multilabel", torch.int64, torch.float32, "`prediction` {} floating point, but got torch.int64"),
        ("multilabel", torch.float32, torch.bool, "`target` {} floating point, but got torch.bool"),
        (
            "classification",
            torch.float32,
            torch.float32,
            "`target` {} integer class indices, but got torch.float32",
        ),
        (
            "classification",
            torch.float32,
            torch.bool,
            "`target` {} integer class indices, but got torch.bool",
        ),
    ],
)
def test_refuses_other_dtypes(kind, prediction, target, message):
    shape = (2,) if kind == "classification" else (2, 3)
    with pytest.raises(TypeError) as caught:
        TensorLayout("mine", kind, 3).check(
            torch.zeros(2, 3, dtype=prediction), torch.zeros(shape, dtype=target)
        )
    assert str(caught.value) == f"Expected {message.format('of task `mine` to be')}."


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_narrow_labels_count_as_wide_ones(dtype, batch_of, task_of):
    task = task_of("segmentation")
    prediction, target, _ = batch_of("segmentation")
    target = target.clamp_min(0)
    assert torch.equal(task.loss(prediction, target.to(dtype)), task.loss(prediction, target))
    statistics = task.metrics.statistics(prediction, target.to(dtype))
    assert torch.equal(statistics, task.metrics.statistics(prediction, target))
