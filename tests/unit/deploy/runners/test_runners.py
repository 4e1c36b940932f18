"""Every runner that is installed computes the same, and says what it is."""

import numpy as np
import pytest

from lomt.deploy.runners import RunSettings, open_runner
from lomt.deploy.runners.runner import random_inputs
from lomt.deploy.session import PROVIDERS, ProviderError
from lomt.errors import ArtifactError
from tests.unit.deploy.networks import write_conv_network


def settings(provider, shape=(2, 3, 8, 12), device="cpu"):
    return RunSettings(provider, device, threads=1, spinning=True, shape=shape, pool=2, seed=3)


@pytest.fixture
def network(tmp_path):
    return str(write_conv_network(tmp_path / "conv.onnx", 4, size=(8, 12)))


def test_inputs_are_the_same_every_time_and_fit_their_type():
    for dtype in (np.float32, np.float16, np.uint8):
        first, second = (random_inputs(settings("cpu"), np.dtype(dtype)) for _ in range(2))
        assert [image.dtype for image in first] == [np.dtype(dtype)] * 2
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
        assert not np.array_equal(*first)


def test_openvino_computes_what_onnxruntime_does(network):
    pytest.importorskip("openvino")
    own, other = (open_runner(network, settings(provider)) for provider in ("cpu", "openvino"))
    for index in range(3):  # the pool of two begins again
        expected, found = own.outputs(index)["depth"], other.outputs(index)["depth"]
        assert expected.shape == (2, 4, 8, 12)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    host_ms, device_ms = other.run(0)
    assert host_ms > 0
    assert device_ms is None
    assert other.used == ("OpenVINO CPU",)
    assert own.used == (PROVIDERS["cpu"],)
    assert (own.build_ms, own.device_memory(), other.device_memory()) == (None, None, None)


def test_torch_multiplies_as_the_onnx_file_of_the_same_product_is_meant_to():
    runner = open_runner("lomt.deploy.runners.torch_runner:SquareProduct?size=6", settings("torch", (6, 6)))
    rows = random_inputs(settings("torch", (6, 6)), np.dtype(np.float32))[1]
    matrix = runner._model.matrix.numpy()
    np.testing.assert_allclose(runner.outputs(1)["output"], rows @ matrix, rtol=1e-4, atol=1e-5)
    assert runner.run(0)[0] > 0
    assert runner.used == ("torch cpu",)


def test_a_model_that_torch_cannot_run_is_told():
    runner = open_runner("lomt.deploy.runners.torch_runner:SquareProduct?size=5", settings("torch", (6, 6)))
    with pytest.raises(
        ProviderError, match=r"Expected torch to run `.*` on images of shape \(6, 6\), but got"
    ):
        runner.run(0)


def test_files_that_openvino_cannot_load_are_told(network, tmp_path):
    pytest.importorskip("openvino")
    with pytest.raises(ArtifactError, match="to be an ONNX file, but there is none"):
        open_runner(str(tmp_path / "no.onnx"), settings("openvino"))
    with pytest.raises(ArtifactError, match=r"Expected OpenVINO to load `.*` for images of shape"):
        open_runner(network, settings("openvino", (1, 5, 8, 12)))


def test_a_gpu_that_is_not_there_is_told():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ProviderError, match="Expected a GPU that torch can use, but there is none"):
        open_runner("timm:test_resnet", settings("torch", device="cuda"))
