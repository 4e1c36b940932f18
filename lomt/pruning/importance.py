"""Which channels matter: scores from weights, from gradients, or drawn at random."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lomt.errors import ScoreError, UnknownNameError
from lomt.pruning.channel_sums import (
    float_tensors,
    square_sum_by_position,
    sum_by_channel,
    to_float,
)
from lomt.pruning.interfaces import Importance, Prunable
from lomt.pruning.saliency import gradient_saliency
from lomt.pruning.task_importance import TaskTaylor
from lomt.structure.coupled_channels import CoupledChannels
from lomt.tasks.loss_gradients import Losses, total_loss

__all__ = [
    "IMPORTANCES",
    "USES_LOSSES",
    "BatchNormScale",
    "GroupMagnitude",
    "RandomScores",
    "Taylor",
    "make_importance",
    "normalize_layers",
]

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def normalize_layers(scores: Mapping[str, Float[Tensor, " _"]]) -> dict[str, Float[Tensor, " _"]]:
    r"""Divide the scores of each of the coupled channels by their mean, so that layers compare.

    .. math:: s_c \leftarrow s_c \Big/ \frac{1}{C} \sum_{c'=1}^{C} s_{c'}

    Where all scores are zero they stay zero.

    Args:
        scores: At least 0, by name of the coupled channels.
    """
    return {
        name: values / mean if (mean := float(values.mean())) > 0 else values
        for name, values in scores.items()
    }


@dataclass(frozen=True)
class GroupMagnitude:
    r"""Score a channel by the root mean square of all weights that compute it or read it.

    .. math:: m_c = \sqrt{\frac{1}{n_c} \sum_{w \in g_c} w^2}, \qquad
        s_c = m_c \Big/ \frac{1}{C} \sum_{c'=1}^{C} m_{c'}

    where :math:`g_c` are the :math:`n_c` entries of the producers' and consumers' slices of channel :math:`c`: the
    group's Euclidean norm over the root of its size. Norms' scales, biases and statistics do not count unless
    there is nothing else. The division by the layer's mean lets layers compare; what it cannot tell is that a
    whole layer matters less than another.

    Torch-Pruning's ``GroupMagnitudeImportance`` takes the mean of the slices' squared norms, without a root and
    with norms' scales among them; the order within a layer of equally sized slices is the same up to those.

    References:
        Fang et al., "DepGraph: Towards Any Structural Pruning", 2023, https://arxiv.org/abs/2301.12900, section
        3.3, for group norms as importance.
    """

    def __call__(self, structure: Prunable, model: nn.Module) -> dict[str, Tensor]:
        """Score the channels, see :class:`lomt.pruning.interfaces.Importance`.

        Raises:
            ScoreError: If the model is not the one that was traced, or a tensor has entries that are infinite or
                not a number.
        """
        tensors = float_tensors(structure, model)
        return normalize_layers({c.name: _root_mean_square(c, tensors) for c in structure.prunable})


@dataclass(frozen=True)
class BatchNormScale:
    r"""Score a channel by the scale that normalisation layers give it.

    .. math:: m_c = \frac{1}{N} \sum_{i=1}^{N} |\gamma_{i,c}|, \qquad
        s_c = m_c \Big/ \frac{1}{C} \sum_{c'=1}^{C} m_{c'}

    where :math:`\gamma_i` are the ``weight`` of the :math:`N` norms that act on the channels (batch, instance,
    layer, group and RMS norms of torch and classes derived from them). The paper compares the bare
    :math:`|\gamma|` of all layers, after training with an L1 penalty on them; division by the layer's mean
    (as in Torch-Pruning's ``BNScaleImportance``) is what lets models compare that were trained without.

    Args:
        fallback: Scores the coupled channels of which not every channel has a norm's scale. None refuses them.

    References:
        Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", 2017,
        https://arxiv.org/abs/1708.06519, section 3.
    """

    fallback: Importance | None = None

    def __call__(self, structure: Prunable, model: nn.Module) -> dict[str, Tensor]:
        """Score the channels, see :class:`lomt.pruning.interfaces.Importance`.

        Raises:
            ScoreError: If the model is not the one that was traced, a tensor has entries that are infinite or not a
                number, or channels have no norm and there is no fallback.
        """
        tensors = float_tensors(structure, model)
        means = {c.name: _mean_scale(c, model, tensors) for c in structure.prunable}
        lacking = [name for name, mean in means.items() if mean is None]
        if lacking and self.fallback is None:
            raise ScoreError(_no_norms(lacking))
        scores = normalize_layers({name: mean for name, mean in means.items() if mean is not None})
        if lacking and self.fallback is not None:
            others = self.fallback(structure, model)
            scores.update({name: others[name] for name in lacking})
        return {c.name: scores[c.name] for c in structure.prunable}


@dataclass(frozen=True)
class Taylor:
    r"""Score a channel by how much the loss would change without it, to first order.

    .. math:: s_c = \frac{1}{B} \sum_{b=1}^{B} \sum_{w \in g_c}
        \Big| w \, \frac{\partial L_b}{\partial w} \Big|

    where :math:`g_c` are all parameters' slices of channel :math:`c`, norms' scales and biases among them, and
    :math:`L_b` is the loss of batch :math:`b`; a loss given task by task is summed. Not normalised: changes of the
    loss compare across layers as they are. Magnitudes are summed weight by weight, so that contributions of
    opposite sign do not cancel; the paper squares the sum instead.

    Args:
        losses: The losses of some batches, see :data:`lomt.tasks.loss_gradients.Losses`.

    References:
        Molchanov et al., "Importance Estimation for Neural Network Pruning", 2019,
        https://arxiv.org/abs/1906.10771, equation 8.
    """

    losses: Losses

    def __call__(self, structure: Prunable, model: nn.Module) -> dict[str, Tensor]:
        """Score the channels, see :class:`lomt.pruning.interfaces.Importance`.

        Raises:
            ScoreError: If the model is not the one that was traced, a loss is not one to differentiate, or a
                weight, a loss or a gradient is infinite or not a number.
        """
        saliency = gradient_saliency(structure, model, self.losses, total_loss)["all"]
        return {
            c.name: saliency.get(c.name, torch.zeros(c.count, dtype=torch.float64))
            for c in structure.prunable
        }


@dataclass(frozen=True)
class RandomScores:
    """Draw scores uniformly from 0 to 1: the baseline that every importance should beat.

    Args:
        seed: The same seed gives the same scores to the same structure.
    """

    seed: int = 0

    def __call__(self, structure: Prunable, model: nn.Module) -> dict[str, Tensor]:
        """Score the channels, see :class:`lomt.pruning.interfaces.Importance`."""
        generator = torch.Generator().manual_seed(self.seed)
        return {
            c.name: torch.rand(c.count, generator=generator, dtype=torch.float64) for c in structure.prunable
        }


IMPORTANCES: Mapping[str, Callable[..., Importance]] = {
    "magnitude": GroupMagnitude,
    "batchnorm": BatchNormScale,
    "taylor": Taylor,
    "random": RandomScores,
    "task_union": partial(TaskTaylor, combine="union"),
    "task_share": partial(TaskTaylor, combine="share"),
    "task_weighted": partial(TaskTaylor, combine="weighted"),
}
USES_LOSSES = frozenset({"taylor", "task_union", "task_share", "task_weighted"})


def make_importance(name: str, losses: Losses | None = None, **options: object) -> Importance:
    """Return an importance by name.

    Args:
        name: A key of `IMPORTANCES`.
        losses: For those in `USES_LOSSES`; others do without.
        options: More arguments of the importance, such as ``seed`` or ``weights``.

    Raises:
        UnknownNameError: If there is no such importance.
        ScoreError: If it needs losses and there are none.

    Example:
        >>> make_importance("random", seed=3)
        RandomScores(seed=3)
    """
    if name not in IMPORTANCES:
        raise UnknownNameError("importance", name, IMPORTANCES)
    if name not in USES_LOSSES:
        return IMPORTANCES[name](**options)
    if losses is None:
        raise ScoreError(
            f"Expected `losses` for importance `{name}`, which reads gradients, but got None. Give the losses of a "
            "few batches, or `SquaredOutputs` where there are no labels, or take importance `magnitude`."
        )
    return IMPORTANCES[name](losses=losses, **options)


def _root_mean_square(coupled: CoupledChannels, tensors: Mapping[str, Tensor]) -> Tensor:
    parts = [part for part in coupled.slices if part.tensor in tensors]
    roles = {"producer", "consumer"} & {part.role for part in parts} or {"scale"}
    squares, sizes = {}, {}
    for part in parts:
        if part.role in roles:
            tensor = tensors[part.tensor]
            place = (part.tensor, part.dim)
            squares[place] = square_sum_by_position(to_float(tensor), part.dim)
            sizes[place] = torch.full_like(squares[place], tensor.numel() / len(part.owner))
    count = sum_by_channel(coupled, sizes, roles).clamp(min=1)
    return (sum_by_channel(coupled, squares, roles) / count).sqrt()


def _mean_scale(coupled: CoupledChannels, model: nn.Module, tensors: Mapping[str, Tensor]) -> Tensor | None:
    scales = {
        (part.tensor, part.dim): to_float(tensors[part.tensor]).abs().cpu()
        for part in coupled.slices
        if part.role == "scale" and part.tensor in tensors and _is_norm_scale(part.tensor, model)
    }
    counts = sum_by_channel(coupled, {place: torch.ones_like(v) for place, v in scales.items()}, {"scale"})
    return None if (counts == 0).any() else sum_by_channel(coupled, scales, {"scale"}) / counts


def _is_norm_scale(name: str, model: nn.Module) -> bool:
    layer_name, _, attribute = name.rpartition(".")
    return attribute == "weight" and isinstance(model.get_submodule(layer_name), _NORMS)


def _no_norms(names: list[str], most: int = 5) -> str:
    listed = ", ".join(f"`{name}`" for name in names[:most])
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (
        f"Expected all prunable channels to have a norm's scale for importance `batchnorm`, but those of {listed}"
        f"{more} have none. Take importance `magnitude`, protect these layers, or use "
        "`BatchNormScale(fallback=GroupMagnitude())`."
    )
