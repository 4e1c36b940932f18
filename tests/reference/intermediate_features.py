"""What a whole model computes at some layers, seen by forward hooks: the slow way that needs no graph."""

import torch
from torch import nn


def intermediate_features(model, names, images):
    """Run the whole model; returns a copy of what each module put out, by name."""
    seen = {}

    def keep(name):
        return lambda module, inputs, output: seen.__setitem__(name, output.clone())

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def convolution_macs(model, size):
    """Add up the multiply-accumulates of every convolution and linear layer that runs for one image."""
    total = 0

    def count(module, inputs, output):
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output.numel() * module.weight[0].numel()
        else:
            total += output.numel() * module.in_features

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, *size))
    finally:
        for handle in handles:
            handle.remove()
    return total
