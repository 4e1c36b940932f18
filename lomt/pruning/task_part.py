"""Which part of a network one task goes on with: what is its own, and the shared channels that matter most to it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from lomt.errors import UnknownNameError
from lomt.pruning.task_importance import task_saliency
from lomt.structure.coupled_channels import CoupledChannels, Structure
from lomt.tasks.loss_gradients import Losses

__all__ = ["TaskPart", "select_task_part"]

_OWN_ROLES = ("producer", "scale")


@dataclass(frozen=True)
class TaskPart:
    """A choice of channels, entry by entry.

    Args:
        target: The task.
        masks: By name of a parameter or buffer, in its shape, which entries (True) belong to the part; those that
            are not named have none.
        shared: By name of coupled channels that the target shares with other tasks, how many are in the part, and
            how many there are.
    """

    target: str
    masks: Mapping[str, Bool[Tensor, "..."]]
    shared: Mapping[str, tuple[int, int]]

    def without_zeros(self, model: nn.Module) -> "TaskPart":
        """Leave out weights, of two dimensions or more, that are zero: a sparse network stays as sparse."""
        state = model.state_dict()
        masks = {
            name: mask & (state[name] != 0).to(mask.device) if mask.ndim > 1 else mask
            for name, mask in self.masks.items()
        }
        return replace(self, masks=masks)

    def to_dict(self, model: nn.Module) -> dict[str, Any]:
        """Return what is in the part and what is left out, in types that JSON knows.

        Args:
            model: The network that the part is of.
        """
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        updated = {name: int(self.masks[name].sum()) for name in sizes if name in self.masks}
        return {
            "target": self.target,
            "parameters": {"updated": sum(updated.values()), "of": sum(sizes.values())},
            "shared_channels": {name: list(counts) for name, counts in self.shared.items()},
            "frozen": [name for name in sizes if not updated.get(name)],
            "partly_frozen": [name for name, count in updated.items() if 0 < count < sizes[name]],
        }


def select_task_part(
    structure: Structure, model: nn.Module, losses: Losses, target: str, share: float
) -> TaskPart:
    r"""Choose the channels of a trained multitask network that matter most to one of its tasks.

    What the target alone depends on is its own and chosen whole. Of the coupled channels that it shares with other
    tasks, those with the largest saliency

    .. math:: s_c = \frac{1}{B} \sum_{b=1}^{B} \sum_{w \in g_c} \Big| w \, \frac{\partial L_b}{\partial w} \Big|

    are chosen, :math:`L_b` the target's loss of batch :math:`b` and :math:`g_c` all slices of channel :math:`c`. Of a
    weight those entries belong to the part that compute a chosen channel (its filter, its bias, its norm's entries),
    so that every entry belongs to one channel. What other tasks alone depend on is not in the part.

    Args:
        structure: What was traced from ``model``.
        model: The network; left as it was.
        losses: For each batch a dictionary of task name → loss.
        target: The task; named like its output and its loss.
        share: Share of the shared channels to choose, 0 to 1.

    Raises:
        UnknownNameError: If the target is no output, or has no loss.
        ValueError: If the share is not from 0 to 1.
        ScoreError: If the losses cannot be differentiated, see :func:`lomt.pruning.task_importance.task_saliency`.

    References:
        MT2ST: Adaptive Multi-Task to Single-Task Learning, Liu and Yu, 2025, https://arxiv.org/abs/2406.18038, whose
        last stage it serves; channel groups and their saliency are ours.
    """
    if target not in structure.outputs:
        raise UnknownNameError("target task", target, structure.outputs)
    if not 0 <= share <= 1:
        raise ValueError(f"Expected `share` to be from 0 to 1, but got {share}.")
    # Whether a channel may be removed does not matter here.
    whole = replace(structure, coupled=tuple(replace(own, protected=None) for own in structure.coupled))
    scores = task_saliency(whole, model, losses)
    if target not in scores:
        raise UnknownNameError("loss of task", target, scores)
    computed = [own for own in whole.coupled if own.producers]
    shared = [own for own in computed if whole.component(own.name) == "shared" and own.name in scores[target]]
    chosen = _top(shared, scores[target], share)
    counts = {name: (int(mask.sum()), len(mask)) for name, mask in chosen.items()}
    own_channels = [own for own in computed if whole.component(own.name) == target]
    chosen |= {own.name: torch.ones(own.count, dtype=torch.bool) for own in own_channels}
    masks = _entries(whole, model, chosen)
    for name, parameter in model.named_parameters():
        if tuple(whole.serves.get(name, ())) == (target,):
            masks[name] = torch.ones(parameter.shape, dtype=torch.bool)
    return TaskPart(target, {name: mask for name, mask in masks.items() if mask.any()}, counts)


def _top(shared: list[CoupledChannels], scores: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Mark the channels with the highest scores; of equal ones the first."""
    if not shared:
        return {}
    values = torch.cat([scores[own.name] for own in shared])
    mask = torch.zeros(len(values), dtype=torch.bool)
    mask[values.sort(descending=True, stable=True).indices[: round(share * len(values))]] = True
    names = [own.name for own in shared]
    return dict(zip(names, mask.split([own.count for own in shared]), strict=True))


def _entries(structure: Structure, model: nn.Module, chosen: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mark the entries of parameters and buffers that compute a chosen channel or act on it alone."""
    state = model.state_dict()
    masks: dict[str, Tensor] = {}
    for coupled in structure.coupled:
        is_chosen = chosen.get(coupled.name, torch.zeros(coupled.count, dtype=torch.bool))
        for part in coupled.slices:
            if part.role not in _OWN_ROLES or part.tensor not in state:
                continue
            owner = part.owner.cpu()
            marked = (owner >= 0) & is_chosen[owner.clamp(min=0)]
            shape = [1] * state[part.tensor].ndim
            shape[part.dim] = len(marked)
            whole = masks.get(part.tensor, torch.ones(state[part.tensor].shape, dtype=torch.bool))
            masks[part.tensor] = whole & marked.view(shape)
    return masks
