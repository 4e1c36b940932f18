"""How much of a float network's answers another file gives, for networks without labelled data."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from lomt.deploy.onnx_model import OnnxModel

__all__ = ["agreement_with", "labelled_outputs"]

_LABELLED = ("segmentation", "classification")


def agreement_with(path: Path, images: Sequence[np.ndarray]) -> Callable[[Path], dict[str, float]]:
    """Return a judge that compares a file's answers with those of the float file on the same images.

    An output of class scores keeps the share of places at which the largest is the same; any other keeps one minus
    the root mean square of the difference over the output's standard deviation. Neither is a task metric: 0.99 means
    that the answers are nearly the same, not that they are as right.

    Args:
        path: The float file.
        images: As the network takes them, each (channels, height, width).
    """
    network = OnnxModel(path)
    labelled = labelled_outputs(network.metadata)
    batch = np.stack(images)
    expected = network(batch)

    def judge(file: Path) -> dict[str, float]:
        found = OnnxModel(file)(batch)
        return {
            name: _agreement(found[name], value, is_labelled=name in labelled)
            for name, value in expected.items()
        }

    return judge


def labelled_outputs(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Return the outputs that the metadata of an exported file calls class scores."""
    described = json.loads(metadata.get("lomt.outputs", "{}"))
    kinds = {name: own.get("kind") for name, own in described.items()} or json.loads(
        metadata.get("kinds", "{}")
    )
    return tuple(name for name, kind in kinds.items() if kind in _LABELLED)


def _agreement(found: np.ndarray, expected: np.ndarray, *, is_labelled: bool) -> float:
    if not np.isfinite(found).all():
        return 0.0
    if is_labelled and expected.ndim > 1 and expected.shape[1] > 1:
        return float(np.mean(found.argmax(1) == expected.argmax(1)))
    spread = float(np.std(expected.astype(np.float64)))
    error = float(np.sqrt(np.mean((found.astype(np.float64) - expected.astype(np.float64)) ** 2)))
    if spread == 0:
        return 1.0 if error == 0 else 0.0
    return max(0.0, 1 - error / spread)
