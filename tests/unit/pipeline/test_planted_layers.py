"""The one-run locate on a planted problem; ten of them are in benchmarks/bench_locate.py."""

from benchmarks.bench_locate import is_found, locate_planted


def test_joint_finds_the_planted_layers():
    result = locate_planted("joint", seed=0, images=512)

    assert is_found(result), (result["planted"], result["found"])
