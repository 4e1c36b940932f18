"""Tiny networks for the tests of deployment."""

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import nn


class MixedNet(nn.Module):
    """Every counted layer kind, and tasks whose names are those of operators.

    The dictionary's order is not that of the tasks; ``depth`` and ``mean`` have the same shape.
    """

    tasks = ("mean", "depth", "relu", "scene")

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 4, (1, 3), padding=(0, 1), groups=2)
        self.pooled = nn.Conv2d(8, 4, 1)
        self.depth_head = nn.Conv2d(8, 1, 1)
        self.mean_head = nn.Conv2d(8, 1, 1)
        self.relu_head = nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2)
        self.scene_head = nn.Linear(8, 5)

    def forward(self, images):
        size = images.shape[-2:]
        features = F.relu6(self.norm(self.stem(images)))
        features = self.depthwise(features).relu()
        context = self.pooled(features.mean((2, 3), keepdim=True))
        context = F.interpolate(context, size=features.shape[-2:], mode="bilinear", align_corners=False)
        merged = torch.cat([self.grouped(features), context], 1)
        return {
            "scene": self.scene_head(features.mean((2, 3))),
            "relu": self.relu_head(features).relu(),
            "depth": F.interpolate(self.depth_head(merged), size=size, mode="bilinear", align_corners=False),
            "mean": F.interpolate(self.mean_head(merged), size=size, mode="bilinear", align_corners=False),
        }

    @staticmethod
    def example_inputs(batch=1):
        return torch.rand(batch, 3, 8, 12, generator=torch.Generator().manual_seed(7))


def mixed_net():
    """A MixedNet with normalisation statistics that are not the initial ones."""
    torch.manual_seed(0)
    model = MixedNet().eval()
    model.norm.running_mean.uniform_(-0.5, 0.5)
    model.norm.running_var.uniform_(0.5, 2.0)
    return model


def write_conv_network(path, width, *, layers=3, size=(24, 32), output="depth", scale=1.0):
    """Write a chain of 3x3 convolutions as ONNX, without the exporter."""
    generator = np.random.default_rng(0)
    nodes, weights, channels, value = [], [], 3, "images"
    for layer in range(layers):
        name = f"weight{layer}"
        weight = generator.standard_normal((width, channels, 3, 3)) * scale / np.sqrt(9 * channels)
        weights.append(numpy_helper.from_array(weight.astype(np.float32), name))
        result = output if layer == layers - 1 else f"features{layer}"
        nodes.append(helper.make_node("Conv", [value, name], [result], name=f"conv{layer}", pads=[1] * 4))
        value, channels = result, width
    return write_network(path, nodes, weights, size=size, output=(output, width))


def write_network(path, nodes, weights, *, size=(24, 32), output=("depth", 3), domains=()):
    """Write nodes between ``images`` and one output of the same size as ONNX."""
    name, channels = output
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, *size])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", channels, *size])],
        weights,
    )
    opsets = [helper.make_opsetid("", 18), *(helper.make_opsetid(domain, 1) for domain in domains)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path
