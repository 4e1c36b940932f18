import numpy as np
import onnx
import pytest

from lomt.deploy import OnnxModel
from lomt.deploy.fp16 import convert_fp16
from lomt.errors import ExportMismatchError
from tests.unit.deploy.networks import MixedNet, write_conv_network

IMAGES = [np.random.default_rng(seed).random((3, 8, 12), dtype=np.float32) for seed in range(3)]


def test_it_is_half_as_large_takes_and_gives_float32_and_computes_the_same(tmp_path):
    path = write_conv_network(tmp_path / "conv.onnx", 32, size=(8, 12))
    found = convert_fp16(path, tmp_path / "half.onnx", IMAGES)
    assert found.bytes < 0.6 * found.float_bytes
    assert 0 < found.differences["depth"] < 0.005
    half = OnnxModel(tmp_path / "half.onnx")(np.stack(IMAGES))["depth"]
    assert half.dtype == np.float32
    weights = [tensor.data_type for tensor in onnx.load(tmp_path / "half.onnx").graph.initializer]
    assert set(weights) == {onnx.TensorProto.FLOAT16}
    assert "largest difference" in str(found)


def test_names_and_metadata_stay(exported, tmp_path):
    convert_fp16(exported[1], tmp_path / "half.onnx", IMAGES)
    half = OnnxModel(tmp_path / "half.onnx")
    assert half.outputs == half.tasks == MixedNet.tasks


def test_a_network_that_overflows_is_refused_and_leaves_no_file(tmp_path):
    path = write_conv_network(tmp_path / "large.onnx", 8, size=(8, 12), scale=1e3)
    with pytest.raises(
        ExportMismatchError,
        match=r"Expected all numbers within `.*` to be at most 65504, to fit float16, but `\w+` reaches",
    ):
        convert_fp16(path, tmp_path / "half.onnx", IMAGES)
    assert not (tmp_path / "half.onnx").exists()


def test_a_network_that_differs_too_much_is_refused(tmp_path):
    path = write_conv_network(tmp_path / "conv.onnx", 8, size=(8, 12))
    with pytest.raises(
        ExportMismatchError, match=r"Expected output `depth` of `.*half.onnx` in float16 to differ by"
    ):
        convert_fp16(path, tmp_path / "half.onnx", IMAGES, tolerance=1e-6)
    assert not (tmp_path / "half.onnx").exists()


@pytest.mark.parametrize(("images", "tolerance"), [([], 0.01), (IMAGES, 0.0)])
def test_what_cannot_be_used_is_refused(images, tolerance, tmp_path):
    with pytest.raises(
        ValueError, match="Expected at least one image and `tolerance` to lie between 0 and 1"
    ):
        convert_fp16(tmp_path / "a.onnx", tmp_path / "half.onnx", images, tolerance=tolerance)
