"""The network as a file holds it: images in, the named tasks' answers out, in order."""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from lomt.deploy.inference_copy import task_outputs
from lomt.deploy.interface import Interface, Preprocessing
from lomt.structure import named_outputs
from lomt.tasks import KINDS

__all__ = ["DeployedNetwork", "raw_answer"]

_TINIEST: Final = 1e-12


class DeployedNetwork(nn.Module):
    """Map from the images that a file takes to the answers that it gives.

    Args:
        model: From prepared images to tensors.
        names: The tasks, in the order of the answers; the exporter can only label positions.
        interface: What is baked in.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], interface: Interface) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(names)
        baked = interface.preprocessing if interface.is_baked else None
        self.preprocessing = None if baked is None else _Prepare(baked)
        self.answers = tuple(_answer(name, interface) for name in names)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if self.preprocessing is not None:
            images = self.preprocessing(images)
        outputs = named_outputs(self.model(images))
        return tuple(answer(outputs[name]) for name, answer in zip(self.names, self.answers, strict=True))

    def by_name(self, images: Tensor) -> dict[str, Tensor]:
        """Return the answers by task.

        Raises:
            TypeError: The model does not answer with tensors.
        """
        prepared = images if self.preprocessing is None else self.preprocessing(images)
        outputs = task_outputs(self.model, prepared)
        return {name: answer(outputs[name]) for name, answer in zip(self.names, self.answers, strict=True)}


class _Prepare(nn.Module):
    """Turn the images that a file takes into prepared ones."""

    scale: Tensor
    shift: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        mean, std = (
            torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std)
        )
        self.register_buffer("scale", 1 / (preprocessing.highest * std))
        self.register_buffer("shift", -mean / std)
        self.is_reversed = preprocessing.channel_order == "BGR"

    def forward(self, images: Tensor) -> Tensor:
        if self.is_reversed:
            images = images.flip(1)
        return images * self.scale + self.shift


def raw_answer(name: str, answer: Tensor, interface: Interface, channels: int) -> Tensor:
    """Return predictions from which metrics follow that are those of a file's answer.

    Args:
        name: The task.
        answer: What the file gives.
        interface: Of the file.
        channels: Of the raw predictions.

    Returns:
        For probabilities their logarithms or logits, for labels 1 where the label is, else 0.
    """
    values = interface.values(name)
    if values == "labels":
        return functional.one_hot(answer, channels).movedim(-1, 1).float()
    if values == "probabilities" and KINDS[interface.kinds[name]].holds_labels:
        return answer.clamp(min=_TINIEST).log()
    return answer.double().logit(eps=_TINIEST) if values == "probabilities" else answer


def _answer(name: str, interface: Interface) -> Callable[[Tensor], Tensor]:
    values = interface.values(name)
    if values == "labels":
        return _labels
    if values == "probabilities":
        return _softmax if KINDS[interface.kinds[name]].holds_labels else torch.sigmoid
    return _unit if values == "unit vectors" else _same


def _unit(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors, dim=1)


def _same(values: Tensor) -> Tensor:
    return values


def _labels(logits: Tensor) -> Tensor:
    return logits.argmax(1)


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(1)
