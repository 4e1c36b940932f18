import pytest
import torch

from lomt.tasks import best_constant, make_task


def loss_at(task, constant, target):
    shape = (target.shape[0], task.out_channels, *target.shape[-2:])
    return task.loss(constant[:, None, None].expand(shape).contiguous(), target)


def test_segmentation_starts_at_the_best_of_all_constants():
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(-1, 2, (4, 8, 8), generator=generator)
    target[target == 1] = torch.where(torch.rand((target == 1).sum(), generator=generator) < 0.2, 1, 2)
    task = make_task("s", "segmentation", 3, classes=("a", "b", "c"))
    best = best_constant(task, [target[:2], target[2:]])

    for _ in range(20):
        other = best + 0.3 * torch.randn(3, generator=generator)
        assert loss_at(task, best, target) <= 1.01 * loss_at(task, other, target)


def test_depth_is_the_mean_of_valid_pixels():
    target = torch.tensor([[[[0.0, 2.0], [4.0, 0.0]]]])

    assert best_constant(make_task("d", "depth", 1), [target]).tolist() == [3.0]


def test_normals_point_the_mean_way():
    target = torch.zeros(1, 3, 1, 3)
    target[0, 2, 0, 0], target[0, 1, 0, 1] = -1.0, -1.0  # the third pixel has no normal
    found = best_constant(make_task("n", "normals", 3), [target])

    assert found.tolist() == pytest.approx([0.0, -0.5, -0.5])


def test_edges_start_undecided():
    assert best_constant(make_task("e", "edges", 1), [torch.ones(1, 1, 2, 2)]).tolist() == [0.0]


def test_targets_without_any_label_start_at_zero_or_alike():
    assert best_constant(make_task("d", "depth", 1), [torch.zeros(1, 1, 2, 2)]).tolist() == [0.0]
    task = make_task("c", "classification", 2, classes=("a", "b"))
    assert best_constant(task, [torch.tensor([-1, -1])]).softmax(0).tolist() == pytest.approx([0.5, 0.5])
