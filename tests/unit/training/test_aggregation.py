import sys

import pytest
import torch

from lomt.errors import TrainingError, UnknownNameError
from lomt.training.aggregation import AGGREGATIONS, make_aggregator

TASKS = ("depth", "edges", "normals")


def conflicting(seed=0):
    rows = torch.randn(3, 7, generator=torch.Generator().manual_seed(seed))
    return rows - 0.9 * rows.mean(0)  # nearly opposed


def slow_pcgrad(rows, orders):
    """The paper's algorithm, on the vectors themselves."""
    total = torch.zeros_like(rows[0])
    for i, order in enumerate(orders):
        own = rows[i].clone()
        for j in order:
            if i != j and float(own @ rows[j]) < 0:
                own = own - (own @ rows[j]) / rows[j].square().sum() * rows[j]
        total += own
    return total


def test_pcgrad_is_the_papers_algorithm():
    rows = conflicting()
    generator = torch.Generator().manual_seed(4 * 1_000_003 + 11)
    orders = [torch.randperm(3, generator=generator).tolist() for _ in range(3)]

    assert torch.allclose(
        make_aggregator("pcgrad", TASKS, seed=4)(rows, 11), slow_pcgrad(rows, orders), atol=1e-5
    )


@pytest.mark.parametrize("name", ["pcgrad", "weighted_pcgrad", "primary_pcgrad"])
def test_without_conflict_it_is_the_sum(name):
    rows = torch.rand(3, 5)

    assert torch.allclose(make_aggregator(name, TASKS, target="depth")(rows, 0), rows.sum(0), atol=1e-6)


def test_only_the_sum_survives_of_opposites():
    """Of two opposed gradients one is projected away; the heavier task's is nearly always left."""
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    aggregate = make_aggregator("weighted_pcgrad", ("a", "b"), {"probabilities": {"a": 9.0}})
    found = [float(aggregate(rows, step)[0]) for step in range(500)]

    assert set(found) == {1.0, -1.0}
    assert found.count(1.0) / 500 == pytest.approx(0.9, abs=0.05)


def test_auxiliaries_never_move_against_the_target():
    aggregate = make_aggregator("primary_pcgrad", TASKS, target="edges")
    for seed in range(20):
        rows = conflicting(seed)
        assert float(aggregate(rows, 0) @ rows[1]) >= float(rows[1].square().sum()) - 1e-5


def test_draws_follow_seed_and_step():
    rows = conflicting()
    one, other = (make_aggregator("weighted_pcgrad", TASKS, seed=seed) for seed in (1, 1))
    found = [one(rows, step) for step in range(8)]

    assert all(torch.equal(first, other(rows, step)) for step, first in enumerate(found))
    assert any(not torch.equal(found[0], later) for later in found)


@pytest.mark.parametrize("name", ["mgda", "imtl_g", "aligned_mtl", "config", "graddrop", "cagrad", "upgrad"])
def test_those_of_torchjd(name):
    jd = pytest.importorskip("torchjd.aggregation")
    kinds = {
        "mgda": jd.MGDA,
        "imtl_g": jd.IMTLG,
        "aligned_mtl": jd.AlignedMTL,
        "config": jd.ConFIG,
        "cagrad": lambda: jd.CAGrad(c=0.4),
        "upgrad": jd.UPGrad,
    }
    rows = conflicting()
    found = make_aggregator(name, TASKS)(rows, 3)

    assert torch.equal(found, make_aggregator(name, TASKS)(rows, 3))
    if name in kinds:
        assert torch.allclose(found, kinds[name]()(rows))


@pytest.mark.parametrize(
    ("name", "options", "target", "error", "message"),
    [
        ("pcgard", {}, None, UnknownNameError, "Unknown aggregation `pcgard`, did you mean `pcgrad`"),
        ("weighted_pcgrad", {"probability": {}}, None, UnknownNameError, "did you mean `probabilities`"),
        ("weighted_pcgrad", {"probabilities": {"dpth": 1.0}}, None, UnknownNameError, "mean `depth`"),
        (
            "weighted_pcgrad",
            {"probabilities": {"depth": 0.0}},
            None,
            ValueError,
            "task `depth` to be above 0",
        ),
        (
            "primary_pcgrad",
            {},
            None,
            TrainingError,
            "`target` to name a task, because of aggregation `primary_",
        ),
        ("primary_pcgrad", {}, "dpth", UnknownNameError, "Unknown target task `dpth`"),
    ],
)
def test_what_does_not_fit_is_named(name, options, target, error, message):
    with pytest.raises(error, match=message):
        make_aggregator(name, TASKS, options, target=target)


def test_torchjd_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(
        TrainingError,
        match=r"torchjd and its solvers to be installed, because `aggregation` is mgda.*lomt\[aggreg",
    ):
        make_aggregator("mgda", TASKS)


def test_the_solver_of_one_is_part_of_the_extra(monkeypatch):
    pytest.importorskip("torchjd")
    monkeypatch.setitem(sys.modules, "qpsolvers", None)
    with pytest.raises(TrainingError, match=r"solvers to be installed, because `aggregation` is upgrad"):
        make_aggregator("upgrad", TASKS)


def test_options_that_torchjd_refuses_are_named():
    pytest.importorskip("torchjd")
    with pytest.raises(TrainingError, match="Aggregation `mgda` cannot be made so"):
        make_aggregator("mgda", TASKS, {"nonsense": 1})


def test_all_have_names():
    assert len(set(AGGREGATIONS)) == len(AGGREGATIONS) == 11
