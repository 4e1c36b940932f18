"""What the tests of deployment share: exporting takes seconds and is done once."""

import pytest

from lomt.deploy import export_onnx
from tests.unit.deploy.networks import MixedNet, mixed_net


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The tiny network as it is exported, and the file."""
    model = mixed_net()
    path = tmp_path_factory.mktemp("deploy") / "model.onnx"
    export_onnx(model, MixedNet.example_inputs(), path, tasks=MixedNet.tasks)
    return model, path
