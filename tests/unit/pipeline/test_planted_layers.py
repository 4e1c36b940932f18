"""The locate methods on planted problems; ten of each are in benchmarks/bench_locate.py."""

import pytest

from benchmarks.bench_locate import is_found, locate_planted


def test_joint_finds_the_planted_layers():
    result = locate_planted("joint", "features", seed=0, images=512)

    assert is_found(result), (result["planted"], result["found"])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["joint", "single_task"])
def test_the_block_that_a_task_cannot_do_without_is_found(method):
    result = locate_planted(method, "reach", seed=0, images=512)

    assert set(result["blocks_apart"].values()) == {0}, (result["planted"], result["found"])
