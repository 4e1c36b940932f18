import pytest
import torch

from lomt.errors import ScoreError
from lomt.grouping import (
    fuzzy_membership,
    group_data_maps,
    require_true_classes,
    true_class_probability,
)
from lomt.tasks import make_task


def planted(seed, tasks=6, samples=40):
    """Maps of two families: one learns the first half of the samples early, the other the second."""
    generator = torch.Generator().manual_seed(seed)
    family = torch.arange(tasks)[torch.randperm(tasks, generator=generator)] % 2
    easy = (torch.arange(samples) < samples // 2) == (family[:, None] == 0)
    mean = torch.where(easy, 0.9, 0.5).double() + 0.05 * torch.randn(tasks, samples, generator=generator)
    deviation = torch.where(easy, 0.05, 0.2).double() + 0.02 * torch.rand(tasks, samples, generator=generator)
    return family, mean.double(), deviation.double()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_families_are_found(seed):
    family, mean, deviation = planted(seed)
    found = group_data_maps(tuple("abcdef"), mean, deviation, 2)

    expected = {
        frozenset(t for t, own in zip("abcdef", family.tolist(), strict=True) if own == k) for k in (0, 1)
    }
    assert {frozenset(group) for group in found.grouping.groups} == expected
    assert found.matrix.sum(1).tolist() == pytest.approx([1] * 6)
    assert found.matrix.max(1).values.min() > 0.99


def test_membership_is_the_formula():
    generator = torch.Generator().manual_seed(0)
    rows, centres = (torch.rand(count, 5, generator=generator).double() for count in (7, 3))
    for m in (1.07, 1.5, 2.0):
        found = fuzzy_membership(rows, centres, m)
        for t in range(7):
            distances = [float((rows[t] - centre).square().sum()) ** 0.5 for centre in centres]
            for k in range(3):
                expected = 1 / sum((distances[k] / other) ** (2 / (m - 1)) for other in distances)
                assert float(found[t, k]) == pytest.approx(expected, rel=1e-9)
        assert found.sum(1).tolist() == pytest.approx([1] * 7)


def test_a_row_on_a_centre_belongs_to_it_alone():
    rows = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)

    assert fuzzy_membership(rows, rows).tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ValueError, match=r"Expected `fuzziness` to be above 1, but got 1.0"):
        fuzzy_membership(rows, rows, 1.0)


def test_samples_without_all_labels_are_left_out_of_all_maps():
    _, mean, deviation = planted(0)
    mean[2, 5] = deviation[2, 5] = torch.nan
    kept = [index for index in range(40) if index != 5]
    found = group_data_maps(tuple("abcdef"), mean, deviation, 2)

    assert (found.facts["samples"], found.facts["samples_without_all_labels"]) == (39, 1)
    again = group_data_maps(tuple("abcdef"), mean[:, kept], deviation[:, kept], 2)
    assert torch.equal(found.matrix, again.matrix)


def test_maps_that_cannot_be_compared_are_refused():
    mean = torch.full((2, 4), 0.5, dtype=torch.float64)
    mean[0, :3] = mean[1, 3:] = torch.nan
    message = "labels of all tasks, .* of 4 none has; task `a` has the fewest, 1. Raise `group.samples`"
    with pytest.raises(ScoreError, match=message):
        group_data_maps(("a", "b"), mean, mean, 2)
    with pytest.raises(ValueError, match="`groups` to be from 1 to 2, the number of tasks, but got 3"):
        group_data_maps(("a", "b"), mean, mean, 3)


def test_a_task_without_classes_is_refused_by_name(tasks):
    with pytest.raises(
        ScoreError, match=r"Expected task `early` .* but it is of kind depth\. Leave the task"
    ):
        require_true_classes(tasks)
    require_true_classes({name: task for name, task in tasks.items() if name != "early"})


def logit(p):
    return torch.tensor(p).logit()


def test_probability_of_a_class_and_of_pixels():
    scene = make_task("scene", "classification", 2, classes=("a", "b"))
    chances = torch.tensor([[0.2, 0.8], [0.7, 0.3], [0.5, 0.5]])
    found = true_class_probability(scene, chances.log(), torch.tensor([1, 0, -1]))
    assert found.tolist() == pytest.approx([0.8, 0.7, torch.nan], nan_ok=True)

    pixels = make_task("pixels", "segmentation", 2, classes=("a", "b"))
    maps = chances.log().T[None, :, None, :].expand(2, 2, 1, 3)
    labels = torch.tensor([[[1, 0, 1]], [[0, -1, -1]]])
    found = true_class_probability(pixels, maps, labels)
    assert found.tolist() == pytest.approx([(0.8 + 0.7 + 0.5) / 3, 0.2])


def test_probability_of_labels_that_are_there_or_not():
    marks = make_task("marks", "multilabel", 2, classes=("a", "b"))
    prediction = torch.stack([logit([0.9, 0.4]), logit([0.9, 0.4]), logit([0.9, 0.4])])
    target = torch.tensor([[1.0, 0.0], [0.0, -1.0], [-1.0, -1.0]])
    found = true_class_probability(marks, prediction, target)
    assert found.tolist() == pytest.approx([0.75, 0.1, torch.nan], nan_ok=True)

    edges = make_task("edges", "edges", 1)
    found = true_class_probability(edges, prediction[:1].reshape(1, 1, 1, 2), target[:1].reshape(1, 1, 1, 2))
    assert found.tolist() == pytest.approx([0.75])
