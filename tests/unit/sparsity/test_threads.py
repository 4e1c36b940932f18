import time

import pytest
import torch

from lomt.sparsity import METRICS
from lomt.sparsity.bunch import Bunch, Layer, LayerStep
from lomt.sparsity.rows import Scratch
from lomt.sparsity.threads import ThreadChoice
from lomt.structure import LayerGroups


@pytest.fixture(autouse=True)
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("best", [1, 3])
def test_the_quicker_number_of_threads_is_found_and_the_other_tried_again(best, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    counts = []

    def work():
        counts.append(torch.get_num_threads())
        now[0] += 1.0 if torch.get_num_threads() == best else 2.0

    choice = ThreadChoice()
    for _ in range(64):
        choice.run(work)
    assert counts[:7] == [3, 3, 3, 3, 1, 1, 1]
    assert counts[7:].count(4 - best) == 3
    assert torch.get_num_threads() == 3


def test_a_single_slow_call_changes_nothing(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    counts = []

    def work():
        counts.append(torch.get_num_threads())
        now[0] += 9.0 if len(counts) == 9 else (1.0 if torch.get_num_threads() == 3 else 2.0)

    choice = ThreadChoice()
    for _ in range(15):
        choice.run(work)
    assert counts[7:] == [3] * 8


def test_the_number_of_threads_is_put_back_when_work_fails():
    choice = ThreadChoice()

    def fail():
        raise RuntimeError("broken")

    for _ in range(9):
        with pytest.raises(RuntimeError, match="broken"):
            choice.run(fail)
    assert torch.get_num_threads() == 3


def test_with_one_thread_there_is_nothing_to_choose():
    torch.set_num_threads(1)
    counts = []
    for _ in range(9):
        ThreadChoice().run(lambda: counts.append(torch.get_num_threads()))
    assert counts == [1] * 9


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", [(500, 300, 1, 1), (120, 100, 3, 3), (9000, 1, 3, 3)])
def test_steps_are_the_same_to_the_last_bit_with_any_number_of_threads(shape, metric):
    torch.manual_seed(0)
    weight = torch.randn(shape)
    moment = torch.rand(shape) ** 8 * 1e-6
    conv_groups = shape[0] if shape[1] == 1 else 1
    count = shape[1] * conv_groups
    groups = LayerGroups("layer", "in", count, weight.numel() // count, conv_groups)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        stepped = weight.clone()
        bunch = Bunch([Layer("layer", stepped, groups, moment if metric == "adam" else None)], Scratch())
        for _ in range(2):
            if metric == "adam":
                bunch.step_in_adam([LayerStep(3e-4, 0.1, 1e-8)])
            else:
                bunch.step_euclidean([LayerStep(0.2)])
        results.append(stepped)
    assert not torch.equal(results[0], weight)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
