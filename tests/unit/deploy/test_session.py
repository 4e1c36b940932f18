import onnxruntime
import pytest

from lomt.deploy import ProviderError, session
from lomt.deploy.session import open_session
from lomt.errors import ArtifactError
from tests.unit.deploy.networks import write_conv_network


@pytest.fixture
def network(tmp_path):
    return write_conv_network(tmp_path / "conv.onnx", 2)


@pytest.fixture
def cuda_offered(monkeypatch):
    offered = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)


@pytest.mark.parametrize("spinning", [True, False])
def test_every_setting_is_stated(network, spinning):
    opened = open_session(network, threads=2, spinning=spinning)
    options = opened.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == str(int(spinning))
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"
    assert opened.get_providers() == ["CPUExecutionProvider"]


def test_on_a_gpu_the_fall_back_is_disabled():
    options = session._session_options(1, "cuda", True)
    assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"


def test_a_device_that_is_not_offered_is_refused(network, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ProviderError) as caught:
        open_session(network, device="cuda")
    assert str(caught.value) == (
        "Expected onnxruntime to offer `CUDAExecutionProvider`, but version "
        f"{onnxruntime.__version__} offers CPUExecutionProvider. Install onnxruntime-gpu in place of "
        "onnxruntime, or use device `cpu`."
    )


def test_a_silent_fall_back_is_an_error(network, monkeypatch, cuda_offered):
    class OnTheCpu:
        def __init__(self, *_, **__):
            pass

        def get_providers(self):
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "InferenceSession", OnTheCpu)
    with pytest.raises(ProviderError) as caught:
        open_session(network, device="cuda")
    assert str(caught.value) == (
        f"Expected `{network}` to run on `CUDAExecutionProvider` alone, but got: it runs on "
        "CPUExecutionProvider. Check that driver, CUDA and cuDNN fit this onnxruntime, or use device `cpu`."
    )


def test_a_session_that_refuses_the_device_is_a_provider_error(network, monkeypatch, cuda_offered):
    def refuse(*_, **__):
        raise RuntimeError("fallback to CPU EP has been explicitly disabled")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(ProviderError, match="but got: fallback to CPU EP has been explicitly disabled"):
        open_session(network, device="cuda")


def test_files_and_threads_that_cannot_be_used_are_refused(tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(ArtifactError, match=r"to be an ONNX file, but there is none\. Export it first\."):
        open_session(path)
    path.write_text("no network")
    with pytest.raises(
        ArtifactError, match=r"Expected onnxruntime to load `.*`, but got: .*Export it again\."
    ):
        open_session(path)
    with pytest.raises(ValueError, match=r"Expected `threads` to be at least 1, but got 0\."):
        open_session(path, threads=0)
