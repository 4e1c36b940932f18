"""Whether what an ONNX file says about itself is true of the model that it is compared with."""

import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from torch import nn

from lomt.deploy.interface import Interface, Preprocessing
from lomt.deploy.weights_hash import weights_sha256

__all__ = ["expected_interface", "false_facts"]


def expected_interface(metadata: Mapping[str, str], known: Preprocessing | None) -> Interface:
    """Return what a file says that it takes and gives, with the mean and deviation that the model is known to need.

    Args:
        metadata: Of the file.
        known: What the model needs; ``None`` where nobody knows, then the file is believed.

    Raises:
        ArtifactError: The metadata cannot be read.
    """
    said = Interface.from_metadata(metadata)
    if known is None or said.preprocessing is None:
        return said
    return replace(said, preprocessing=replace(said.preprocessing, mean=known.mean, std=known.std))


def false_facts(
    metadata: Mapping[str, str], model: nn.Module, known: Preprocessing | None, outputs: tuple[str, ...]
) -> list[str]:
    """List what a file says wrongly about itself, a sentence each; a file of other origin says nothing.

    Args:
        metadata: Of the file.
        model: What it should hold.
        known: Preparation of images that the model needs, where it is known.
        outputs: Names of the file's outputs.
    """
    problems = []
    said, true = metadata.get("lomt.weights_sha256"), weights_sha256(model)
    if said is not None and said != true:
        problems.append(
            f"Expected the weights' SHA-256 {true[:12]}... in the metadata, but got {said[:12]}...: the file was made "
            "from other weights."
        )
    tasks = json.loads(metadata.get("lomt.tasks", json.dumps(outputs)))
    if tuple(tasks) != outputs:
        problems.append(
            f"Expected the metadata to name the outputs {', '.join(outputs)}, but got {', '.join(tasks)}."
        )
    own = Interface.from_metadata(metadata).preprocessing
    if known is not None and own is not None:
        for name in ("mean", "std"):
            given, needed = getattr(own, name), getattr(known, name)
            if len(given) != len(needed) or not np.allclose(given, needed, rtol=1e-5, atol=1e-7):
                problems.append(f"Expected the {name} {list(needed)} in the metadata, but got {list(given)}.")
    return problems
