"""Which modules of a model are looked into, and which stay one call."""

from torch import nn

from lomt.models.graph import is_torch_layer, is_whole

__all__ = ["has_weights", "is_layer", "is_opened"]

_ROW_OF_LAYERS = 3
"""So many layers with weights in a row are a network of their own, as in VGG."""


def is_opened(module: nn.Module) -> bool:
    """Say whether the parts of a module are called by themselves.

    A row of blocks is, and what holds such rows or several blocks; a block, which holds layers only, is not. Its own
    code then goes on running as it was written.
    """
    if is_whole(module) or is_layer(module):
        return _is_row_of_layers(module)
    if _is_container(module):
        return _is_row(module) or _is_row_of_layers(module)
    parts = [part for part in module.children() if not is_layer(part)]
    return len(parts) > 1 or any(_is_row(part) for part in module.modules() if part is not module)


def is_layer(module: nn.Module) -> bool:
    """Say whether a module is smaller than a block: no weights, no parts, or a row of layers such as conv-norm-act."""
    if not has_weights(module) or is_whole(module) or is_torch_layer(module):
        return True
    if type(module).__module__.startswith("timm.layers"):
        return True
    return _is_container(module) and all(is_layer(part) for part in module.children())


def has_weights(module: nn.Module) -> bool:
    """Say whether a module has parameters."""
    return any(True for _ in module.parameters())


def _is_container(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)


def _is_row(module: nn.Module) -> bool:
    """Say whether a container holds blocks: squeeze-and-excitation between the layers of one block makes no row."""
    if not _is_container(module):
        return False
    parts = [part for part in module.children() if has_weights(part)]
    blocks = [part for part in parts if not is_layer(part)]
    return bool(blocks) and 2 * len(blocks) >= len(parts)


def _is_row_of_layers(module: nn.Module) -> bool:
    if type(module) is not nn.Sequential:
        return False
    layers = [part for part in module.children() if has_weights(part) and is_layer(part)]
    return len(layers) >= _ROW_OF_LAYERS
