"""Which tasks BayesAgg can aggregate: the loss that each kind has to have, and last layers it can look into."""

from collections.abc import Mapping
from typing import cast

from torch import nn

from lomt.errors import TrainingError
from lomt.tasks import LOSSES, Task
from lomt.tasks.losses import BinaryCrossEntropy, CrossEntropy, Loss, SquaredError

__all__ = ["BAYESAGG_LOSSES", "check_loss", "last_layer"]

BAYESAGG_LOSSES: Mapping[str, str] = {
    "segmentation": "cross_entropy",
    "depth": "mse",
    "keypoints": "bce",
    "classification": "cross_entropy",
    "multilabel": "bce",
    "regression": "mse",
}
"""The loss that a task of each kind has to have; other kinds have no posterior."""

_CLASSES = {"mse": SquaredError, "bce": BinaryCrossEntropy, "cross_entropy": CrossEntropy}
_NO_WEIGHTS = (nn.Sequential, nn.Flatten, nn.Identity, nn.AdaptiveAvgPool2d)


def check_loss(task: Task) -> None:
    """Check a task's kind and loss.

    Raises:
        TrainingError: If they are not supported.
    """
    wanted = BAYESAGG_LOSSES.get(task.kind)
    if wanted is None:
        kinds = ", ".join(BAYESAGG_LOSSES)
        raise TrainingError(
            f"Expected task `{task.name}` to be of kind {kinds}, because `aggregation` is bayesagg, but it is of kind "
            f"{task.kind}. Choose another aggregation."
        )
    if not isinstance(task.loss, _CLASSES[wanted]):
        raise TrainingError(
            f"Expected task `{task.name}` to have the loss {wanted}, because `aggregation` is bayesagg, but got "
            f"{_name_of(task.loss)}. Set `tasks.{task.name}.loss`, or choose another aggregation."
        )


def _name_of(loss: Loss) -> str:
    names = [name for name, factory in LOSSES[loss.layout.kind].items() if factory is type(loss)]
    return names[0] if names else type(loss).__name__


def last_layer(task: str, decoder: nn.Module | None, *, is_dense: bool) -> nn.Conv2d | nn.Linear:
    """Return the only layer of a decoder that is linear in what it reads.

    Raises:
        TrainingError: If the decoder is anything else.
    """
    modules = (
        [] if decoder is None else [own for own in decoder.modules() if not isinstance(own, _NO_WEIGHTS)]
    )
    layers = [own for own in modules if not (isinstance(own, nn.Dropout) and own.p == 0)]
    if len(layers) == 1:
        (layer,) = layers
        if not is_dense and isinstance(layer, nn.Linear):
            return layer
        is_plain = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.stride == (1, 1)
        if (
            is_dense
            and is_plain
            and cast(nn.Conv2d, layer).groups == 1
            and not any(cast(nn.Conv2d, layer).padding)
        ):
            return cast(nn.Conv2d, layer)
    wanted = "one 1x1 convolution" if is_dense else "a mean over pixels and one linear layer"
    got = (
        "none of its own"
        if decoder is None
        else ", ".join(dict.fromkeys(type(own).__name__ for own in layers))
    )
    raise TrainingError(
        f"Expected the decoder of task `{task}` to be {wanted} without dropout, because `aggregation` is bayesagg, but "
        f"got {got}. Set `tasks.{task}.decoder.kind` to linear, or choose another aggregation."
    )
