import math

import pytest
import torch

from lomt.tasks import LOSSES, make_task
from tests.reference import task_losses as reference

CASES = [pytest.param(kind, name, id=f"{kind}-{name}") for kind, losses in LOSSES.items() for name in losses]


def _reference(kind, name, prediction, target):
    prediction, target = prediction.double().numpy(), target.numpy()
    if name == "cross_entropy":
        return reference.cross_entropy(prediction, target)
    if name == "cosine":
        return reference.cosine(prediction, target)
    if name == "balanced_bce":
        return reference.balanced_binary_cross_entropy(prediction, target)
    return reference.entrywise(kind, name, prediction, target, delta=0.3 if kind == "edges" else 1.0)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_sum_and_count_equal_the_loops(kind, name, batch_of, task_of, device):
    prediction, target, _ = batch_of(kind)
    loss = task_of(kind, loss=name).loss
    total, count = _reference(kind, name, prediction, target)
    assert loss(prediction.to(device), target.to(device)).item() == pytest.approx(total, rel=1e-5)
    assert loss.count(target.to(device)).item() == pytest.approx(count, rel=1e-6)


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
def test_label_smoothing_equals_the_loop(kind, batch_of, task_of):
    prediction, target, _ = batch_of(kind)
    loss = task_of(kind, loss_options={"label_smoothing": 0.1}).loss
    total, _ = reference.cross_entropy(prediction.double().numpy(), target.numpy(), smoothing=0.1)
    assert loss(prediction, target).item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("delta", [0.2, 3.0])
def test_huber_delta_equals_the_loop(delta, batch_of, task_of):
    prediction, target, _ = batch_of("depth")
    loss = task_of("depth", loss="huber", loss_options={"delta": delta}).loss
    total, _ = reference.entrywise("depth", "huber", prediction.numpy(), target.numpy(), delta)
    assert loss(prediction, target).item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_sum_count_and_gradient_add_up_over_micro_batches(kind, name, batch_of, task_of):
    prediction, target, _ = batch_of(kind, dtype=torch.float64)
    loss = task_of(kind, loss=name).loss
    prediction.requires_grad_()
    whole = loss(prediction, target)
    (gradient,) = torch.autograd.grad(whole, prediction)
    parts = [(prediction[i:j], target[i:j]) for i, j in ((0, 1), (1, 4), (4, 6))]
    summed = sum(loss(p, t) for p, t in parts)
    torch.testing.assert_close(summed, whole)
    torch.testing.assert_close(torch.autograd.grad(summed, prediction)[0], gradient)
    torch.testing.assert_close(sum(loss.count(t) for _, t in parts), loss.count(target))


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_ignored_entries_change_neither_value_nor_gradient(kind, name, batch_of, task_of):
    prediction, target, ignored = batch_of(kind)
    loss = task_of(kind, loss=name).loss
    where = ignored.unsqueeze(1) if target.ndim < prediction.ndim else ignored
    other = torch.where(where, 50 * torch.randn_like(prediction), prediction)
    results = []
    for values in (prediction, other):
        values = values.clone().requires_grad_()
        total = loss(values, target)
        results.append((total.detach(), *torch.autograd.grad(total, values)))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    gradient = results[0][1]
    assert (gradient[where.expand_as(gradient)] == 0).all()
    assert gradient.isfinite().all()
    assert (gradient != 0).any()


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_nothing_labelled_is_zero_with_zero_gradient(kind, name, batch_of, task_of):
    prediction, target, _ = batch_of(kind, 2)
    blank = torch.full_like(target, {"depth": 0, "normals": 0, "regression": torch.nan}.get(kind, -1))
    loss = task_of(kind, loss=name).loss
    for p, t in ((prediction, blank), (prediction[:0], target[:0])):
        p = p.clone().requires_grad_()
        total = loss(p, t)
        assert total.item() == 0
        assert loss.count(t).item() == 0
        assert (torch.autograd.grad(total, p)[0] == 0).all()


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_gradient_equals_finite_differences(kind, name, batch_of, task_of):
    prediction, target, _ = batch_of(kind, 1, dtype=torch.float64)
    loss = task_of(kind, loss=name).loss
    assert torch.autograd.gradcheck(lambda p: loss(p, target), prediction.requires_grad_())


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_half_precision_predictions_are_summed_in_single(kind, name, batch_of, task_of):
    prediction, target, _ = batch_of(kind)
    loss = task_of(kind, loss=name).loss
    half = prediction.bfloat16()
    assert loss(half, target).dtype == torch.float32
    torch.testing.assert_close(loss(half, target), loss(half.float(), target))


def test_edges_of_one_image_pull_alike_whatever_their_share(task_of):
    loss = task_of("edges").loss
    for positives in (1, 5, 50, 95):
        target = torch.zeros(1, 1, 10, 10)
        target.view(-1)[:positives] = 1
        logits = torch.zeros_like(target).requires_grad_()
        mean = loss(logits, target) / loss.count(target)
        (gradient,) = torch.autograd.grad(mean, logits)
        assert mean.item() == pytest.approx(math.log(2), rel=1e-5)
        assert gradient[target == 1].sum().item() == pytest.approx(-0.25, rel=1e-4)
        assert gradient[target == 0].sum().item() == pytest.approx(0.25, rel=1e-4)


def test_edge_balance_of_an_image_does_not_depend_on_its_batch(task_of):
    loss = task_of("edges").loss
    sparse, dense = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    sparse[..., 0, 0] = 1
    dense[..., 0, :] = 0
    gradients = []
    for target in (sparse, torch.cat([sparse, dense])):
        logits = torch.zeros_like(target).requires_grad_()
        gradients.append(torch.autograd.grad(loss(logits, target), logits)[0][:1])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("loss_name", "share_found"), [("balanced_bce", 0.8), ("huber", 0.0)])
def test_a_weak_cue_suffices_to_learn_five_percent_of_positives(loss_name, share_found, task_of):
    """With a noisy cue the balanced loss finds most edges; an unbalanced one calls everything background."""
    generator = torch.Generator().manual_seed(0)
    target = (torch.rand(4, 1, 32, 32, generator=generator) < 0.05).float()
    cue = target + 0.5 * torch.randn(target.shape, generator=generator)
    weight = torch.zeros(2, requires_grad=True)
    loss = task_of("edges", loss=loss_name).loss
    optimizer = torch.optim.Adam([weight], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        (loss(weight[0] * cue + weight[1], target) / loss.count(target)).backward()
        optimizer.step()
    found = (weight[0] * cue + weight[1])[target == 1] > 0
    assert found.float().mean() >= share_found
    assert (found.float().mean() > 0.7) == (loss_name == "balanced_bce")


def test_a_vanishing_normal_has_a_bounded_gradient(task_of):
    prediction = torch.zeros(1, 3, 2, 2, requires_grad=True)
    target = torch.zeros(1, 3, 2, 2)
    target[:, 2] = 1
    total = task_of("normals").loss(prediction, target)
    (gradient,) = torch.autograd.grad(total, prediction)
    assert total.item() == 4
    torch.testing.assert_close(gradient, -1000 * target)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_never_waits_for_an_accelerator(kind, name, batch_of, task_of):
    """Tensors on the meta device hold no values: reading one on the host would raise."""
    prediction, target, _ = batch_of(kind)
    prediction, target = prediction.to("meta").requires_grad_(), target.to("meta")
    loss = task_of(kind, loss=name).loss
    mean = loss(prediction, target) / loss.count(target).clamp_min(1)
    assert mean.shape == ()
    assert torch.autograd.grad(mean, prediction)[0].shape == prediction.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(("kind", "value"), [("segmentation", 255), ("edges", 255.0)])
def test_on_an_accelerator_labels_out_of_range_make_the_sum_nan(kind, value, batch_of, task_of):
    prediction, target, _ = batch_of(kind)
    target.view(-1)[0] = value
    assert task_of(kind).loss(prediction.cuda(), target.cuda()).isnan().item()
    with pytest.raises(ValueError, match="but got 255"):
        task_of(kind).check(prediction.cuda(), target.cuda())


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_refuses_a_label_smoothing_out_of_range(smoothing):
    with pytest.raises(ValueError) as caught:
        make_task("scene", "classification", 3, loss_options={"label_smoothing": smoothing})
    assert str(caught.value) == (
        f"Expected `label_smoothing` of task `scene` to be at least 0 and below 1, but got {smoothing}."
    )


@pytest.mark.parametrize("delta", [0.0, -1.0, math.nan])
def test_refuses_a_delta_that_is_not_positive(delta):
    with pytest.raises(ValueError) as caught:
        make_task("far", "depth", 1, loss="huber", loss_options={"delta": delta})
    assert str(caught.value) == f"Expected `delta` of task `far` to be above 0, but got {delta}."
