import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lomt.sparsity.baselines import entry_fractions, found_kappa, keep_highest, task_masks, union_scores
from tests.reference import sparse_baselines as reference

SHAPES = {"shared": (3, 4), "depth": (5,), "label": (7,), "unused": (2,)}


def tasks_of(seed):
    generator = torch.Generator().manual_seed(seed)
    drawn = {
        name: torch.rand(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()
    }
    again = torch.rand(SHAPES["shared"], generator=generator, dtype=torch.float64)
    return {
        "depth": {"shared": drawn["shared"], "depth": drawn["depth"]},
        "label": {"shared": again, "label": drawn["label"]},
    }


@given(seed=st.integers(0, 10**6), kappa=st.floats(0, 1))
def test_a_shared_weight_goes_only_if_all_tasks_agree(seed, kappa):
    tasks = tasks_of(seed)
    scores = union_scores(tasks, SHAPES)
    own = task_masks(tasks, kappa)
    kept = {name: values >= -kappa for name, values in scores.items()}

    assert kept["shared"].equal(own["depth"]["shared"] | own["label"]["shared"])
    assert kept["depth"].equal(own["depth"]["depth"])
    assert kept["label"].equal(own["label"]["label"])
    assert not kept["unused"].any()


@given(seed=st.integers(0, 10**6), kappa=st.floats(0, 1))
def test_each_task_keeps_the_same_fraction_of_what_it_uses(seed, kappa):
    tasks = tasks_of(seed)
    for task, masks in task_masks(tasks, kappa).items():
        size = sum(values.numel() for values in tasks[task].values())
        expected = reference.keep_top(tasks[task], int(kappa * size + 1e-12))
        assert all(masks[name].equal(expected[name]) for name in masks)


@given(seed=st.integers(0, 10**6), target=st.floats(0, 0.99))
def test_kappa_is_what_bisection_finds_and_the_size_is_exact(seed, target):
    tasks = tasks_of(seed)
    scores = union_scores(tasks, SHAPES)
    keep = keep_highest(scores, target)
    total = sum(values.numel() for values in scores.values())
    wanted = total - round(target * total)

    assert sum(int(mask.sum()) for mask in keep.values()) == wanted
    if wanted <= total - 2:  # nobody's two weights are in no union
        expected, kappa = reference.disparse(tasks, SHAPES, wanted)
        assert found_kappa(scores, keep) == pytest.approx(kappa, abs=1e-8)
        if expected is not None:
            assert all(keep[name].equal(expected[name]) for name in keep)


def test_entry_fractions_by_hand():
    fractions = entry_fractions({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0, 3.0])})
    assert fractions["a"].tolist() == [0.25, 1.0]
    assert fractions["b"].tolist() == [0.75, 0.5]
    assert entry_fractions({}) == {}
