"""One number for all weights of a model, by which a file tells what it was made from."""

import hashlib

import torch
from torch import Tensor, nn

__all__ = ["weights_sha256"]


def weights_sha256(model: nn.Module) -> str:
    """Return the SHA-256 of a model's state: every tensor's name, type, shape and bytes, sorted by name.

    Args:
        model: On any device; left as it is.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            tensor = value.detach().cpu().contiguous()
            digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
