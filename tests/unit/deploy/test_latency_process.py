import pytest

from lomt.deploy import LatencyError, ProviderError
from lomt.deploy.latency_process import _read_answer


def test_a_process_that_dies_in_silence_is_told():
    with pytest.raises(LatencyError) as caught:
        _read_answer("", "", -9, "round 1 of the timing")
    assert str(caught.value) == (
        "Expected round 1 of the timing to end well, but its process ended with status -9: nothing on its error stream"
    )


def test_what_a_models_code_prints_is_not_the_answer():
    assert _read_answer('hello\n{"mistake": 1}\n{"arms": []}\n', "", 0, "a round") == {"arms": []}


@pytest.mark.parametrize(
    ("kind", "raised"), [("ProviderError", ProviderError), ("ArtifactError", LatencyError)]
)
def test_what_a_user_can_mend_is_raised_again(kind, raised):
    with pytest.raises(raised, match="^the reason$"):
        _read_answer(f'{{"error": "the reason", "error_kind": "{kind}"}}', "", 0, "a round")
