"""What a baseline of the sparsify stage keeps of a network: masks, and the zeros that they mean for its weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from lomt.compress.channel_baselines import ChannelBaseline, consumer_masks
from lomt.models import TaskNetwork
from lomt.pipeline.context import Context
from lomt.pipeline.loss_batches import FirstBatches
from lomt.pruning.prune import analyse
from lomt.recipe import SparsifySettings
from lomt.recipe.sparsify_settings import LEARNED_METHODS
from lomt.sparsity.baselines import (
    BASELINES,
    MaskAgreement,
    Masks,
    apply_masks,
    mask_agreement,
    per_task_scores,
    prunable_weights,
    task_masks,
    weight_masks,
)
from lomt.structure import copy_model, trace_structure
from lomt.tasks.loss_gradients import Losses
from lomt.training import recalibrate_batch_norm

__all__ = ["Decision", "Decisions", "rising_epochs", "target_of"]


@dataclass(frozen=True)
class Decision:
    """What a method keeps.

    Args:
        masks: Of weights or of coupled channels.
        weights: What that means for the weights, by parameter.
        agreement: Of the tasks, where the method asks each.
    """

    masks: Masks
    weights: Mapping[str, Bool[Tensor, "..."]]
    agreement: MaskAgreement | None


@dataclass(frozen=True)
class Decisions:
    """A baseline with what a recipe says of it.

    Args:
        context: Of the run.
        settings: The recipe's block.
    """

    context: Context
    settings: SparsifySettings

    def of(
        self, network: TaskNetwork, share: float, within: Mapping[str, Bool[Tensor, "..."]] | None
    ) -> Decision:
        """Decide on a network's weights as they are; it is left alone.

        Args:
            network: In its place on the device.
            share: Share that goes, of what the recipe's target is of.
            within: Masks of an earlier round.

        Raises:
            SparsityTargetError: If the share is out of reach, or nothing may go.
        """
        device = next(network.parameters()).device
        batches = FirstBatches(self.context.parts, self.settings.train, device)
        losses = partial(batches.losses, self.settings.loss_batches)
        example = batches.example()
        if self.settings.granularity == "structured":
            return self._of_channels(network, share, within, losses, example)
        return self._of_weights(network, share, within, losses, example)

    def zeroed(self, network: nn.Module, decision: Decision) -> None:
        """Set to zero, in place, what does not stay, and renew the batch norm statistics."""
        apply_masks(network, decision.weights)
        self.renew_statistics(network)

    def renew_statistics(self, network: nn.Module) -> None:
        """Renew batch norm statistics, in place, if the recipe wants that."""
        if count := self.settings.recalibrate_batches:
            batches = FirstBatches(self.context.parts, self.settings.train, torch.device("cpu"))
            recalibrate_batch_norm(network, batches.images(count))

    def _of_channels(
        self,
        network: TaskNetwork,
        share: float,
        within: Mapping[str, Tensor] | None,
        losses: Losses,
        example: Tensor,
    ) -> Decision:
        settings = self.settings
        structure = analyse(network, example)
        measure, _ = target_of(settings)
        method = ChannelBaseline(settings.method, measure, losses, settings.divisor, settings.minimum)
        masks = method.masks(
            network,
            structure,
            share,
            component_of=network.component_of,
            components=settings.components,
            within=within,
        )
        weights = consumer_masks(structure, network, masks.keep)
        return Decision(masks, weights, method.agreement(network, structure, masks))

    def _of_weights(
        self,
        network: TaskNetwork,
        share: float,
        within: Mapping[str, Tensor] | None,
        losses: Losses,
        example: Tensor,
    ) -> Decision:
        method = self.settings.method
        serves = trace_structure(copy_model(network), example).serves
        masks = weight_masks(
            method,
            network,
            share,
            losses=losses,
            serves=serves,
            component_of=network.component_of,
            components=self.settings.components,
            within=within,
        )
        agreement = None
        if BASELINES[method].reads in ("tasks", "serves"):
            weights = {n: w for n, w in prunable_weights(network).items() if n in masks.keep}
            scores = per_task_scores(method, network, weights, losses, serves)
            agreement = mask_agreement(task_masks(scores, masks.facts["kappa"]))
        return Decision(masks, masks.keep, agreement)


def target_of(settings: SparsifySettings) -> tuple[str, float]:
    """Return what the target is a share of, and the share that goes."""
    shares = settings.target.model_dump()
    ((name, share),) = ((name, share) for name, share in shares.items() if share is not None)
    return name, share


def rising_epochs(settings: SparsifySettings) -> int:
    """Return the epochs in which sparsity rises; none for a method that cuts but once."""
    is_learned = settings.method in LEARNED_METHODS
    is_in_rounds = not is_learned and BASELINES[settings.method].is_iterative and settings.rounds > 1
    if not (is_learned or is_in_rounds):
        return 0
    return settings.ramp_epochs or max(1, settings.train.epochs // 2)
