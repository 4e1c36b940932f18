"""BayesAgg: tasks' gradients in the features they share, averaged by how sure each task is of its own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lomt.tasks import Task
from lomt.training.bayesagg_support import BAYESAGG_LOSSES, check_loss, last_layer
from lomt.training.last_layer_posterior import (
    Moments,
    Posterior,
    likelihood_of,
    sampled_moments,
    squared_error_moments,
    updated,
)
from lomt.training.own_parts import decoder_of
from lomt.training.pixel_examples import draw_pixels, pixel_features, wanted_outputs

__all__ = ["BayesAgg", "StepLabels", "precision_weighted"]


@dataclass(frozen=True)
class StepLabels:
    """What a micro-batch is compared with.

    Args:
        targets: By task.
        counts: By task, what the sum of the step's losses is divided by.
        number: Of the micro-batch, in the whole training; decides on what is drawn at random.
    """

    targets: Mapping[str, Tensor]
    counts: Mapping[str, Tensor]
    number: int


@dataclass
class _Reading:
    """What decoders read in one forward pass: the features, and by task a copy cut off from the backbone."""

    features: dict[str, Tensor] = field(default_factory=dict)
    copies: dict[str, Tensor] = field(default_factory=dict)


class BayesAgg(nn.Module):
    r"""Weigh every task's gradient in the shared features by its precision, example by example, entry by entry.

    .. math:: g = T \Big( \sum_t \Lambda_t \Big)^{-1} \sum_t \Lambda_t \, a_t \, \mathrm{E}[g_t], \qquad
        \Lambda_t = \mathrm{diag}(\mathrm{Var}[g_t])^{-p}

    where :math:`g_t` is the gradient of one example's loss of task :math:`t` in the features :math:`h`, under a
    Gaussian posterior over the task's last layer, :math:`a_t` the task's coefficient over its number of labels, and
    :math:`T` how many tasks label the example: tasks that are equally sure give the sum. :math:`g` then goes backward
    through the shared part, once; last layers get the ordinary gradients of their losses.

    Tasks aggregate where they read the same features: maps pixel by pixel (the last layer is a 1x1 convolution, and
    commutes with the enlargement of its outputs), answers for whole images by the mean over pixels. What several such
    groups, or branch points, ask of a layer before them adds up, as in any backward pass, and a task alone with its
    features has its ordinary gradient. Features of two depths have no common gradient to weigh; refusing them would
    rule out every network whose tasks branch off where they need to.

    Supported are the kinds and losses in `BAYESAGG_LOSSES` and decoders that are one linear layer. Posteriors go on
    from batch to batch: a running one with a memory takes the place of the published pass over the whole training set.
    They need :math:`K (d + 1)^2` numbers for :math:`K` outputs of :math:`d` features. With accumulation every
    micro-batch is a batch of its own here.

    Args:
        tasks: Names.
        prior_precision: Of the last layers' weights.
        memory: What a batch counts for one batch later, 0 to below 1.
        samples: Draws of a last layer, for losses other than the squared error; the paper takes 512.
        pixels: Pixels of an image that are looked at, drawn anew for every batch, alike for all tasks; the gradient is
            scaled up. None takes all.
        power: :math:`p`; below 1 tasks are weighed more alike.
        least_variance: Smaller variances count as this one.
        seed: Of what is drawn.

    Raises:
        ValueError: If an option is out of its range.

    References:
        Bayesian Uncertainty for Gradient Aggregation in Multi-Task Learning, Achituve et al., 2024,
        https://arxiv.org/abs/2402.04005, and its public code for the power and the least variance. Ours are pixels as
        examples, the running posterior, one block of curvature an output, and the factor :math:`T`.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        prior_precision: float = 1.0,
        memory: float = 0.99,
        samples: int = 128,
        pixels: int | None = 256,
        power: float = 1.0,
        least_variance: float = 1e-8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (
            ("prior_precision", prior_precision),
            ("power", power),
            ("least_variance", least_variance),
        ):
            if not value > 0:
                raise ValueError(f"Expected `{name}` to be above 0, but got {value}.")
        if not 0 <= memory < 1:
            raise ValueError(f"Expected `memory` to be at least 0 and below 1, but got {memory}.")
        if samples < 2:
            raise ValueError(f"Expected `samples` to be at least 2, but got {samples}.")
        if pixels is not None and pixels < 1:
            raise ValueError(f"Expected `pixels` to be at least 1, or null for all, but got {pixels}.")
        self._names = tuple(tasks)
        self._prior, self._memory, self._samples = prior_precision, memory, samples
        self._pixels, self._power, self._least, self._seed = pixels, power, least_variance, seed
        self._tasks: Mapping[str, Task] = {}
        self._reading = _Reading()
        self._reduce: Callable[[Tensor], Tensor] = _as_it_is

    def attach(
        self, model: nn.Module, tasks: Mapping[str, Task], reduce: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """Look at the tasks' last layers and make room for their posteriors.

        Args:
            model: The network.
            tasks: By name.
            reduce: Sum over processes.

        Raises:
            TrainingError: If a task's loss or decoder is not supported.
        """
        self._tasks, self._reduce = dict(tasks), reduce or self._reduce
        for name, task in tasks.items():
            check_loss(task)
            head = last_layer(name, decoder_of(model, name), is_dense=task.is_dense)
            outputs, inputs = head.weight.shape[0], head.weight.shape[1] + 1
            unit = self._prior * torch.eye(inputs, dtype=torch.float64, device=head.weight.device)
            self.register_buffer(f"mean_{name}", unit.new_zeros(outputs, inputs))
            self.register_buffer(f"precision_{name}", unit.repeat(outputs, 1, 1))

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Note in a forward pass inside the context what decoders read, and cut them off from the backbone."""
        self._reading = _Reading()
        with ExitStack() as stack:
            for name in self._names:
                decoder = decoder_of(model, name)
                if decoder is not None:
                    handle = decoder.register_forward_pre_hook(partial(self._read, name))
                    stack.callback(handle.remove)
            yield

    def backward(
        self, losses: Mapping[str, Tensor], coefficients: Mapping[str, Tensor], labels: StepLabels
    ) -> None:
        """Add to all gradients what the micro-batch of the last watched forward pass gives.

        Args:
            losses: By task, with their graph; tasks left out add nothing.
            coefficients: By task.
            labels: What the losses come from.
        """
        reading, self._reading = self._reading, _Reading()
        weighed = [coefficients[task].to(loss.device) * loss for task, loss in losses.items()]
        torch.stack(weighed).sum().backward()  # type: ignore[no-untyped-call]
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + labels.number)
        totals: dict[int, tuple[Tensor, Tensor]] = {}
        for group in self._groups(losses, reading):
            features = reading.features[group[0]]
            if len(group) == 1:
                gradient = cast(Tensor, reading.copies[group[0]].grad)
            else:
                gradient = self._aggregated(features, group, coefficients, labels, generator)
            before = totals.get(id(features))
            totals[id(features)] = (features, gradient if before is None else before[1] + gradient)
        of_backbone = [(own, g.to(own.dtype)) for own, g in totals.values() if own.requires_grad]
        if of_backbone:
            outputs, gradients = zip(*of_backbone, strict=True)
            torch.autograd.backward(outputs, gradients)

    def reduce(self, engine: Accelerator, model: nn.Module) -> None:
        """Sum the gradients over processes, whose losses are shares of one mean."""
        if engine.num_processes == 1:
            return
        for parameter in model.parameters():
            if parameter.requires_grad:
                own = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
                parameter.grad = engine.reduce(own, reduction="sum")

    def posterior(self, task: str) -> Posterior:
        """Return what is known of a task's last layer, the bias last among its inputs."""
        return Posterior(getattr(self, f"mean_{task}"), getattr(self, f"precision_{task}"))

    def _read(self, task: str, decoder: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor]:
        (features,) = inputs
        copy = features.detach().requires_grad_()
        self._reading.features[task], self._reading.copies[task] = features, copy
        return (copy,)

    def _groups(self, losses: Mapping[str, Tensor], reading: _Reading) -> list[list[str]]:
        """Return the tasks that read the same features in the same way, together."""
        groups: dict[tuple[int, bool], list[str]] = {}
        for task in losses:
            key = (id(reading.features[task]), self._tasks[task].is_dense)
            groups.setdefault(key, []).append(task)
        return list(groups.values())

    def _aggregated(
        self,
        features: Tensor,
        group: Sequence[str],
        coefficients: Mapping[str, Tensor],
        labels: StepLabels,
        generator: torch.Generator,
    ) -> Tensor:
        """Return the gradient in features that several tasks share."""
        own = features.detach().requires_grad_()
        with torch.enable_grad():
            # Half precision would lose what the moments are about.
            values = own.to(torch.promote_types(own.dtype, torch.float32))
            if self._tasks[group[0]].is_dense:
                size = labels.targets[group[0]].shape[-2:]
                places = draw_pixels(size, len(own), self._pixels, generator).to(own.device)
                examples = pixel_features(values, size, places)
                scale = size.numel() / places.shape[1]
            else:
                places, scale = None, 1.0
                examples = values.mean((2, 3)) if own.ndim == 4 else values
        with torch.no_grad():
            inputs = torch.cat([examples, torch.ones_like(examples[:, :1])], dim=1)
            found, factors, labelled = [], [], []
            for task in group:
                moments, has_label = self._moments(task, inputs, labels.targets[task], places, generator)
                found.append(moments)
                labelled.append(has_label)
                factors.append(coefficients[task].to(inputs) / labels.counts[task].to(inputs) * scale)
            total = precision_weighted(
                found, torch.stack(labelled), torch.stack(factors), power=self._power, least=self._least
            )
        examples.backward(total)  # type: ignore[no-untyped-call]
        return cast(Tensor, own.grad)

    def _moments(
        self, task: str, inputs: Tensor, target: Tensor, places: Tensor | None, generator: torch.Generator
    ) -> tuple[Moments, Tensor]:
        """Take a batch into a task's posterior; return the gradient's moments and which examples have a label."""
        wanted, valid = wanted_outputs(self._tasks[task], target.to(inputs.device), places)
        name = BAYESAGG_LOSSES[self._tasks[task].kind]
        likelihood = likelihood_of(name)
        posterior = updated(
            self.posterior(task),
            inputs,
            wanted,
            valid,
            likelihood,
            prior_precision=self._prior,
            memory=self._memory,
            reduce=self._reduce,
        )
        getattr(self, f"mean_{task}").copy_(posterior.mean)
        getattr(self, f"precision_{task}").copy_(posterior.precision)
        if name == "mse":
            return squared_error_moments(posterior, inputs, wanted, valid), valid.any(1)
        moments = sampled_moments(
            posterior, inputs, wanted, valid, likelihood.residual, samples=self._samples, generator=generator
        )
        return moments, valid.any(1)


def precision_weighted(
    moments: Sequence[Moments],
    labelled: Bool[Tensor, "tasks examples"],
    factors: Float[Tensor, " tasks"],
    *,
    power: float = 1.0,
    least: float = 1e-8,
) -> Float[Tensor, "examples features"]:
    r"""Return :math:`T (\sum_t \Lambda_t)^{-1} \sum_t \Lambda_t a_t \mathrm{E}[g_t]`, example by example.

    Args:
        moments: Of every task's gradient.
        labelled: Which examples each task has labels of; :math:`T` counts them.
        factors: :math:`a_t`.
        power: :math:`p` of :math:`\Lambda = \mathrm{Var}^{-p}`.
        least: Smallest variance.
    """
    means = torch.stack([own.mean for own in moments])
    # Up to a common factor, which keeps powers of small variances in range.
    logs = -power * torch.stack([own.variance for own in moments]).clamp_min(least).log()
    precisions = (logs - logs.amax(0)).exp() * labelled[..., None]
    shares = precisions / precisions.sum(0).clamp_min(torch.finfo(precisions.dtype).tiny)
    return labelled.sum(0)[:, None] * (shares * factors[:, None, None] * means).sum(0)


def _as_it_is(value: Tensor) -> Tensor:
    return value
