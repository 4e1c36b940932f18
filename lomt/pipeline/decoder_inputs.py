"""Where the decoders of the user's own model read each of their inputs, located one by one."""

from collections.abc import Mapping
from itertools import islice

from lomt.branching import DecoderInput, copy_matching_weights
from lomt.models import AdoptedModel, Adoption, explain, load_model
from lomt.pipeline.context import ADAPTER_IMAGES, Context
from lomt.pipeline.own_model import OwnModel

__all__ = ["locate_inputs"]

_CANDIDATES = 8
"""Layers tried in place of each input, the deepest that are left: the nearer mostly explain more."""


def locate_inputs(context: Context, branch_points: Mapping[str, str]) -> dict[str, tuple[DecoderInput, ...]]:
    """Find the layer that each input of each decoder is read from when nothing deeper than a branch point is left.

    Inputs at the branch point or before it stay where they are: the backbone computes them anyway. A deeper one moves
    to the layer that explains most of it on images that the fit of the adapter has not seen; where there are too few
    images to tell, to the branch point.

    Args:
        context: Of the run.
        branch_points: Layer by task.

    Returns:
        By task, in forward order; without tasks that get a new decoder, and empty where the network is built of
        timm's parts.
    """
    own_model = context.parts.own_model
    if own_model is None:
        return {}
    adoption, found = context.parts.adoption, dict[str, tuple[DecoderInput, ...]]()
    tasks = [task for task in branch_points if task not in context.recipe.model.new_decoders]
    for layer in dict.fromkeys(branch_points[task] for task in tasks):
        read = {task: adoption.layers_read(task) for task in tasks if branch_points[task] == layer}
        moved = {name for own in read.values() for name in own if adoption.is_deeper(name, layer)}
        shares = _explained(context, own_model, layer, moved)
        for task, names in read.items():
            found[task] = tuple(
                _moved(name, layer, shares.get(name, {})) if name in moved else DecoderInput(name, name)
                for name in names
            )
    return found


def _moved(name: str, layer: str, shares: Mapping[str, float]) -> DecoderInput:
    return DecoderInput(name, max(shares, key=shares.__getitem__, default=layer), shares)


def _explained(context: Context, own: OwnModel, last: str, inputs: set[str]) -> dict[str, dict[str, float]]:
    """Return, by input, how much of it each layer that is left explains."""
    if not inputs:
        return {}
    settings, parts = context.recipe.train, context.parts
    batches = parts.loader("train", settings, is_augmented=False)
    count = min(-(-ADAPTER_IMAGES // settings.batch_size) * 6 // 5, batches.batches_per_epoch)
    if count < 2:
        return {}
    adoption, spec = parts.adoption, own.spec(context.recipe.tasks)
    candidates = _candidates(adoption, last)
    backbone = adoption.backbone_part([*dict.fromkeys([*candidates, *inputs])], {}).eval()
    if context.recipe.rewire.start == "dense":
        dense = load_model(context.directory.path / "dense")
        assert isinstance(dense, AdoptedModel)
        copy_matching_weights(dense.backbone, backbone)
    given = (spec.apart(parts.prepared(batch["image"])) for batch in batches.epoch(0))
    held_out = max(count // 6, 1)
    return explain(
        adoption,
        backbone,
        {name: candidates for name in sorted(inputs)},
        islice(given, count - held_out),
        islice(given, held_out),
    )


def _candidates(adoption: Adoption, last: str) -> list[str]:
    """Name the deepest of the layers that are left, each once, the deepest first."""
    left = [own for own in adoption.features.values() if not adoption.is_deeper(own.name, last)]
    names = {own.node: own.name for own in left} | {adoption.features[last].node: last}
    return list(reversed(names.values()))[:_CANDIDATES]
