from pathlib import Path

import onnx
import pytest
import torch

from lomt.deploy.graph_shapes import example_shape, graph_shapes
from lomt.errors import ArtifactError
from tests.unit.deploy.networks import MixedNet, write_conv_network


def test_shapes_are_those_of_a_run_at_any_size(exported):
    model, path = exported
    network = onnx.load(path)
    for size in ((8, 12), (10, 22)):
        images = example_shape(path, network, 3, size)
        assert images == (3, 3, *size)
        shapes = graph_shapes(path, network, images)
        with torch.no_grad():
            expected = model(torch.rand(images))
        assert {task: shapes[task] for task in MixedNet.tasks} == {
            task: tuple(expected[task].shape) for task in MixedNet.tasks
        }
        assert all(name in shapes for node in network.graph.node for name in node.output)


def test_the_size_is_the_files_or_the_one_asked_for_or_that_of_the_export(exported, tmp_path):
    path = exported[1]
    assert example_shape(path, onnx.load(path), 2, None) == (2, 3, 8, 12)
    fixed = write_conv_network(tmp_path / "conv.onnx", 4, size=(5, 6))
    assert example_shape(fixed, onnx.load(fixed), 2, None) == (2, 3, 5, 6)
    with pytest.raises(
        ValueError, match=r"Expected `size` to be that of `.*conv\.onnx`, 5x6, but got \(5, 7\)\."
    ):
        example_shape(fixed, onnx.load(fixed), 2, (5, 7))


def test_a_size_that_nothing_says_is_asked_for(exported):
    network = onnx.load(exported[1])
    del network.metadata_props[:]
    with pytest.raises(ArtifactError) as caught:
        example_shape(Path("model.onnx"), network, 1, None)
    assert str(caught.value) == (
        "Expected `model.onnx` to say how large its images are, but it leaves the size open. Give a height and width."
    )
