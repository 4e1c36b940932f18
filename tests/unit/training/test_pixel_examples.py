import pytest
import torch

from lomt.tasks import make_task
from lomt.training.pixel_examples import draw_pixels, pixel_features, wanted_outputs
from tests.reference import bayesagg as reference


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [(6, 10), (3, 5), (7, 9), (2, 3)])
def test_features_are_those_of_bilinear_enlargement(size):
    features = torch.randn(2, 4, 3, 5, generator=generator(), dtype=torch.float64)
    places = draw_pixels(torch.Size(size), 2, None, generator())
    found = pixel_features(features, torch.Size(size), places)
    torch.testing.assert_close(found, reference.enlarged(features, size))


def test_pixels_are_drawn_once_each_for_every_image_by_itself():
    size = torch.Size((5, 6))
    drawn = draw_pixels(size, 3, 12, generator())
    assert [len(set(own.tolist())) for own in drawn] == [12] * 3
    assert 0 <= int(drawn.min()) <= int(drawn.max()) < 30
    assert not drawn[0].equal(drawn[1])
    assert drawn.equal(draw_pixels(size, 3, 12, generator()))
    assert draw_pixels(size, 2, 30, generator()).tolist() == [list(range(30))] * 2


def test_drawn_pixels_have_their_features_and_targets():
    size = torch.Size((4, 5))
    features = torch.randn(2, 3, 4, 5, generator=generator(1))
    depth = torch.randn(2, 1, 4, 5, generator=generator(2))
    places = draw_pixels(size, 2, 7, generator(3))
    values, valid = wanted_outputs(make_task("depth", "depth", 1), depth, places)
    found = pixel_features(features, size, places)
    for row, (image, place) in enumerate((i, int(p)) for i in range(2) for p in places[i]):
        r, c = divmod(place, 5)
        torch.testing.assert_close(found[row], features[image, :, r, c])
        expected = float(depth[image, 0, r, c])
        assert bool(valid[row, 0]) == (expected > 0)
        assert float(values[row, 0]) == (expected if expected > 0 else 0)


def test_classes_become_probabilities():
    task = make_task("label", "classification", 3, loss_options={"label_smoothing": 0.3})
    wanted, valid = wanted_outputs(task, torch.tensor([2, -1]), None)
    torch.testing.assert_close(wanted[0], torch.tensor([0.1, 0.1, 0.8], dtype=torch.float64))
    assert valid.tolist() == [[True] * 3, [False] * 3]


def test_several_labels_and_values_keep_their_gaps():
    several = make_task("marks", "multilabel", 2)
    wanted, valid = wanted_outputs(several, torch.tensor([[1.0, -1.0]]), None)
    assert (wanted.tolist(), valid.tolist()) == ([[1.0, 0.0]], [[True, False]])
    values = make_task("pose", "regression", 2, loss="mse")
    wanted, valid = wanted_outputs(values, torch.tensor([[torch.nan, -3.0]]), None)
    assert (wanted.tolist(), valid.tolist()) == ([[0.0, -3.0]], [[False, True]])
