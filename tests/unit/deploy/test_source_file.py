import hashlib

import onnx

from lomt.deploy.source_file import describe_source
from tests.unit.deploy.networks import write_conv_network


def test_weights_beside_the_file_count(tmp_path):
    path = write_conv_network(tmp_path / "conv.onnx", 8)
    assert describe_source(path) == (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
    onnx.save(
        onnx.load(path),
        tmp_path / "split.onnx",
        save_as_external_data=True,
        location="split.data",
        size_threshold=0,
    )
    split, data = tmp_path / "split.onnx", tmp_path / "split.data"
    size, checksum = describe_source(split)
    assert size == split.stat().st_size + data.stat().st_size
    data.write_bytes(data.read_bytes()[:-1] + b"!")
    assert describe_source(split)[1] != checksum


def test_a_directory_is_its_weights_and_a_factory_has_no_size(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"1234")
    assert describe_source(tmp_path)[0] == 4
    assert describe_source("timm:resnet18") == (None, None)
