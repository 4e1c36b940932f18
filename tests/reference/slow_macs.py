"""Multiply-accumulates counted one by one, in loops, while a PyTorch model runs."""

from itertools import product

import torch
from torch import nn


def count_macs_one_by_one(model, images):
    """Run the model and count what its Conv2d, ConvTranspose2d and Linear layers multiply."""
    total = 0

    def count(module, inputs, output):
        nonlocal total
        total += _COUNTERS[type(module)](module, inputs[0], output)

    handles = [module.register_forward_hook(count) for module in model.modules() if type(module) in _COUNTERS]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return total


def _conv(module, images, output):
    count = 0
    for _image, _filter, _row, _column in product(*map(range, output.shape)):
        for _channel in range(module.in_channels // module.groups):
            count += module.kernel_size[0] * module.kernel_size[1]
    return count


def _conv_transpose(module, images, output):
    count = 0
    for _image, _channel, _row, _column in product(*map(range, images.shape)):
        for _filter in range(module.out_channels // module.groups):
            count += module.kernel_size[0] * module.kernel_size[1]
    return count


def _linear(module, features, output):
    count = 0
    for _number in range(output.numel()):
        count += module.in_features
    return count


_COUNTERS = {nn.Conv2d: _conv, nn.ConvTranspose2d: _conv_transpose, nn.Linear: _linear}
