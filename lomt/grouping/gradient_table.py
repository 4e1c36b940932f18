"""Per-sample gradients of every task in the shared parameters, projected as they are made."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call, vmap

from lomt.grouping.projection import Projection
from lomt.grouping.task_scores import Link, link_of, sample_scores
from lomt.tasks import Task

__all__ = ["GradientTable", "collect_gradients", "shared_parameters"]

_CHUNK_BYTES = 2**28


@dataclass(frozen=True)
class GradientTable:
    """What the estimate needs to know of a network and its data: some hundred numbers a task and sample.

    Args:
        tasks: Names, in the order of the rows.
        links: How each task's number becomes a loss.
        gradients: Projected gradients of the numbers.
        values: The numbers themselves, margins or residuals, at the network's own weights.
        is_valid: Which samples have a label of the task.
    """

    tasks: tuple[str, ...]
    links: tuple[Link, ...]
    gradients: Float[Tensor, "tasks samples dimension"]
    values: Float[Tensor, "tasks samples"]
    is_valid: Bool[Tensor, "tasks samples"]

    def part(self, samples: slice) -> "GradientTable":
        """Return the table of some of the samples."""
        kept = (entry[:, samples] for entry in (self.gradients, self.values, self.is_valid))
        return GradientTable(self.tasks, self.links, *kept)


def shared_parameters(model: nn.Module, *, norms: bool = False) -> dict[str, nn.Parameter]:
    """Return the parameters outside ``model.decoders``, by name.

    Args:
        model: A multitask network; all its parameters are shared where it has no such part.
        norms: Whether vectors, those of norms and biases, are among them; the authors leave norms out.
    """
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if not name.startswith("decoders.") and (norms or parameter.ndim > 1)
    }


def collect_gradients(
    model: nn.Module,
    tasks: Mapping[str, Task],
    batches: Iterable[Mapping[str, Tensor]],
    projection: Projection,
    parameters: Mapping[str, nn.Parameter],
    *,
    targets: Mapping[str, str] | None = None,
    prepare: Callable[[Tensor], Tensor] | None = None,
    samples_at_once: int | None = None,
    on_samples: Callable[[int], None] | None = None,
) -> GradientTable:
    r"""Return :math:`P^\top \nabla_\theta f_t(x_i)` of every task :math:`t` and sample :math:`x_i`.

    The network runs in evaluation mode, where samples do not see each other. One forward pass serves all tasks; each
    task then costs one backward pass. Several samples run at once, each with its own view of the weights, as many as
    fit a quarter of a gigabyte of gradients; a network that ``torch.func.vmap`` cannot run goes with one at a time.

    Args:
        model: From images to predictions by task; left as it was.
        tasks: By name.
        batches: Of images in 0 to 1 and targets.
        projection: Made for ``parameters`` in this order.
        parameters: Those shared by the tasks.
        targets: Name of each task's target in the batches; the task's own name where absent.
        prepare: From images in 0 to 1 to what the network takes.
        samples_at_once: How many samples run at once; what fits if not given.
        on_samples: Told how many samples are done, batch by batch.
    """
    was_training = model.training
    model.eval()
    size = sum(projection.sizes)
    at_once = samples_at_once or max(1, _CHUNK_BYTES // (4 * size))
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    try:
        for batch in batches:
            for chunk in _chunks(batch, at_once):
                images = prepare(chunk["image"]) if prepare else chunk["image"]
                labels = {name: chunk[(targets or {}).get(name, name)].to(images.device) for name in tasks}
                rows.append(_collect(model, tasks, images, labels, projection, parameters))
                if on_samples is not None:
                    on_samples(len(images))
    finally:
        model.train(was_training)
    gradients, values, is_valid = (torch.cat(parts, dim=1) for parts in zip(*rows, strict=True))
    links = tuple(link_of(task) for task in tasks.values())
    return GradientTable(tuple(tasks), links, gradients, values, is_valid)


def _chunks(batch: Mapping[str, Tensor], at_once: int) -> Iterable[dict[str, Tensor]]:
    count = len(batch["image"])
    for start in range(0, count, at_once):
        yield {name: value[start : start + at_once] for name, value in batch.items()}


def _collect(
    model: nn.Module,
    tasks: Mapping[str, Task],
    images: Tensor,
    labels: Mapping[str, Tensor],
    projection: Projection,
    parameters: Mapping[str, nn.Parameter],
) -> tuple[Tensor, Tensor, Tensor]:
    copies = {
        name: p.detach()[None].expand(len(images), *p.shape).requires_grad_()
        for name, p in parameters.items()
    }
    predictions = _forward(model, copies, images)
    found = [sample_scores(task, predictions[name].float(), labels[name]) for name, task in tasks.items()]
    gradients = []
    for scores in found:
        own = torch.autograd.grad(
            scores.values.sum(), list(copies.values()), retain_graph=True, allow_unused=True
        )
        gradients.append(projection.project(own).cpu())
    values = torch.stack([scores.values.detach().cpu() for scores in found])
    return torch.stack(gradients), values, torch.stack([scores.is_valid.cpu() for scores in found])


def _forward(model: nn.Module, copies: Mapping[str, Tensor], images: Tensor) -> Mapping[str, Tensor]:
    """Run every sample with its own copy of the parameters."""
    if len(images) == 1:
        own = {name: copy[0] for name, copy in copies.items()}
        alone: Mapping[str, Tensor] = functional_call(model, own, (images,))
        return alone

    def run(own: Mapping[str, Tensor], image: Tensor) -> Mapping[str, Tensor]:
        """Predict for one sample."""
        predictions: Mapping[str, Tensor] = functional_call(model, dict(own), (image[None],))
        return {name: value[0] for name, value in predictions.items()}

    together: Mapping[str, Tensor] = vmap(run)(dict(copies), images)
    return together
