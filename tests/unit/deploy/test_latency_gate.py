import pytest

from lomt.deploy import LatencyError
from lomt.deploy.latency_gate import check_outputs


def output(*shape, is_finite=True):
    return {"shape": list(shape), "dtype": "float32", "is_finite": is_finite}


DENSE = {"depth": output(1, 1, 8, 8), "edges": output(1, 1, 8, 8)}


def test_the_same_names_and_shapes_pass_without_a_word():
    assert check_outputs({"dense": DENSE, "small": dict(reversed(DENSE.items()))}, "dense") == []


def test_the_file_of_one_task_passes_and_is_told():
    assert check_outputs({"dense": DENSE, "task": {"depth": DENSE["depth"]}}, "dense") == [
        "`task` computes depth alone: speed-ups over `dense` are not those of the same work"
    ]


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        (
            {"depth": output(1, 1, 8, 8, is_finite=False)},
            "Expected output `depth` of `small` to be finite on random images, but it holds numbers that are not. "
            "Such a network is not timed; export it again.",
        ),
        (
            {"dephts": output(1, 1, 8, 8)},
            "Expected the outputs of `small` to be among those of `dense`, depth, edges, but got dephts. Export it "
            "with the same names, or allow other outputs (`--any-outputs`).",
        ),
        (
            {"depth": output(1, 1, 4, 4)},
            "Expected output `depth` of `small` to have the shape [1, 1, 8, 8] as in `dense`, but got [1, 1, 4, 4]. "
            "Only equal work is compared; `--any-outputs` allows it.",
        ),
    ],
)
def test_what_is_not_the_same_work_is_refused(outputs, text):
    with pytest.raises(LatencyError) as caught:
        check_outputs({"dense": DENSE, "small": outputs}, "dense")
    assert str(caught.value) == text


def test_other_outputs_may_be_allowed_but_never_numbers_that_are_not_finite():
    arms = {"dense": DENSE, "small": {"other": output(1, 5)}}
    assert len(check_outputs(arms, "dense", may_differ=True)) == 1
    arms["small"]["other"]["is_finite"] = False
    with pytest.raises(LatencyError, match="to be finite"):
        check_outputs(arms, "dense", may_differ=True)
