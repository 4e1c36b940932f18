"""How much tasks agree on what to keep, layer by layer: where their ways part."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

__all__ = ["LayerAgreement", "MaskAgreement", "mask_agreement"]

TaskMasks = Mapping[str, Mapping[str, Bool[Tensor, "..."]]]
"""By task, then by parameter or by name of the coupled channels."""


@dataclass(frozen=True)
class LayerAgreement:
    """Of one layer that several tasks use.

    Args:
        name: Name of the parameter or of the coupled channels.
        count: Weights, or channels.
        kept: How many each task keeps, by task.
        iou: What all tasks keep over what any keeps, 0 to 1; 1 where none keeps anything.
        pairwise: Mean of the same over pairs of tasks.
    """

    name: str
    count: int
    kept: Mapping[str, int]
    iou: float
    pairwise: float


@dataclass(frozen=True)
class MaskAgreement:
    r"""Agreement of the tasks' own masks, layer by layer.

    .. math:: \mathrm{IoU} = \Big| \bigcap_t B^t \Big| \Big/ \Big| \bigcup_t B^t \Big|

    In DiSparse's networks it falls from nearly 1 to nearly 0 on the way through the backbone, steeply at one stage,
    its watershed: before it tasks want the same weights, after it each wants its own.

    Args:
        layers: Those that at least two tasks use, in the network's order.

    References:
        Sun et al., "DiSparse: Disentangled Sparsification for Multitask Model Compression", 2022,
        https://arxiv.org/abs/2206.04662, section 4, on the IoU of the tasks' masks.
    """

    layers: tuple[LayerAgreement, ...]

    def watershed(self, level: float = 0.5) -> str | None:
        """Return the first layer from which on all agree less than a level; None if there is none.

        Args:
            level: IoU, 0 to 1.
        """
        found = None
        for layer in reversed(self.layers):
            if layer.iou >= level:
                break
            found = layer.name
        return found

    def stages(self, stage_of: Callable[[str], str]) -> dict[str, float]:
        """Return the mean IoU of each stage's layers, as the paper's figures have it.

        Args:
            stage_of: Name of the stage by name of the layer.
        """
        found: dict[str, list[float]] = {}
        for layer in self.layers:
            found.setdefault(stage_of(layer.name), []).append(layer.iou)
        return {stage: sum(values) / len(values) for stage, values in found.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"layers": [asdict(layer) for layer in self.layers], "watershed": self.watershed()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "MaskAgreement":
        """Return what `to_dict` wrote.

        Raises:
            ValueError: If `values` are not those of such a table.
        """
        try:
            return cls(tuple(LayerAgreement(**layer) for layer in values["layers"]))
        except (KeyError, TypeError) as error:
            fields = ", ".join(LayerAgreement.__dataclass_fields__)
            raise ValueError(
                f"Expected a table of agreement with `layers` of {fields}, but got one that fails with {error!r}."
            ) from error

    def __str__(self) -> str:
        if not self.layers:
            return "No layer is used by more than one task."
        tasks = list(dict.fromkeys(task for layer in self.layers for task in layer.kept))
        rows = [("layer", *(f"{task} keeps" for task in tasks), "IoU", "in pairs")]
        for layer in self.layers:
            shares = [f"{layer.kept[t] / layer.count:.1%}" if t in layer.kept else "" for t in tasks]
            rows.append((layer.name, *shares, f"{layer.iou:.3f}", f"{layer.pairwise:.3f}"))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join(
            "  ".join(
                [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
            )
            for row in rows
        )


def mask_agreement(tasks: TaskMasks) -> MaskAgreement:
    """Compare what each task by itself would keep, as :func:`lomt.sparsity.baselines.task_masks` gives it.

    Args:
        tasks: Masks by task and name; what a task does not use is absent from it. What only one task uses says
            nothing of agreement and is left out.
    """
    names = dict.fromkeys(name for masks in tasks.values() for name in masks)
    layers = []
    for name in names:
        own = {task: masks[name] for task, masks in tasks.items() if name in masks}
        if len(own) > 1:
            layers.append(_agreement(name, own))
    return MaskAgreement(tuple(layers))


def _agreement(name: str, masks: Mapping[str, Tensor]) -> LayerAgreement:
    pairs = [_iou(torch.stack(pair)) for pair in combinations(masks.values(), 2)]
    return LayerAgreement(
        name=name,
        count=next(iter(masks.values())).numel(),
        kept={task: int(mask.sum()) for task, mask in masks.items()},
        iou=_iou(torch.stack(list(masks.values()))),
        pairwise=sum(pairs) / len(pairs),
    )


def _iou(masks: Bool[Tensor, "tasks ..."]) -> float:
    union = int(masks.any(0).sum())
    return int(masks.all(0).sum()) / union if union else 1.0
