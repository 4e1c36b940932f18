"""DiSparse's union rule: a weight goes only if no task wants it, and each task wants the same fraction."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lomt.sparsity.baselines.selection import split_like

__all__ = ["entry_fractions", "found_kappa", "task_masks", "union_scores"]

TaskScores = Mapping[str, Mapping[str, Float[Tensor, "..."]]]
"""By task, then by name; what a task does not use is absent from it."""


def entry_fractions(scores: Mapping[str, Float[Tensor, "..."]]) -> dict[str, Float[Tensor, "..."]]:
    r"""Return for every entry the least :math:`\kappa` at which it is in its task's top :math:`\kappa N` entries.

    .. math:: r_i = \frac{1}{N} \, \big| \{ j : s_j > s_i \} \cup \{ j \le i : s_j = s_i \} \big|

    Args:
        scores: One task's, over the shared part and its own decoder jointly.
    """
    if not scores:
        return {}
    flat = torch.cat([values.flatten() for values in scores.values()])
    order = flat.argsort(descending=True, stable=True)
    fractions = torch.empty(len(flat), dtype=torch.float64, device=flat.device)
    places = torch.arange(1, len(flat) + 1, dtype=torch.float64, device=flat.device)
    fractions[order] = places / len(flat)
    return split_like(scores, fractions)


def task_masks(tasks: TaskScores, kappa: float) -> dict[str, dict[str, Bool[Tensor, "..."]]]:
    r"""Return what each task by itself would keep, its top :math:`\kappa` fraction.

    Args:
        tasks: Scores by task and name.
        kappa: 0 to 1.
    """
    return {
        task: {name: own <= kappa for name, own in entry_fractions(scores).items()}
        for task, scores in tasks.items()
    }


def union_scores(tasks: TaskScores, shapes: Mapping[str, Sequence[int]]) -> dict[str, Float[Tensor, "..."]]:
    r"""Score an entry by the fraction at which the first task wants it.

    .. math:: s_i = -\min_t r^t_i

    The union of the tasks' top :math:`\kappa` fractions is :math:`\{ i : s_i \ge -\kappa \}`, which grows with
    :math:`\kappa`. To keep exactly :math:`K` entries one keeps the :math:`K` highest: :math:`\kappa` is then the
    solution that bisection would close in on, without its tolerance. What no task uses goes first.

    Args:
        tasks: Scores by task and name.
        shapes: By name, of everything that may go.

    References:
        Sun et al., "DiSparse: Disentangled Sparsification for Multitask Model Compression", 2022,
        https://arxiv.org/abs/2206.04662, section 3: a shared weight is pruned only if all tasks agree. There
        :math:`\kappa` is tuned by hand to reach a density.
    """
    found: dict[str, Tensor] = {}
    for scores in tasks.values():
        for name, own in entry_fractions(scores).items():
            found[name] = torch.maximum(found[name], -own) if name in found else -own
    device = next((values.device for values in found.values()), torch.device("cpu"))
    nobody = torch.tensor(-2.0, dtype=torch.float64, device=device)
    return {
        name: found[name] if name in found else nobody.expand(tuple(shape)) for name, shape in shapes.items()
    }


def found_kappa(scores: Mapping[str, Float[Tensor, "..."]], keep: Mapping[str, Bool[Tensor, "..."]]) -> float:
    r"""Return the :math:`\kappa` at which the tasks' union is what was kept.

    Args:
        scores: What `union_scores` gave.
        keep: The highest of them.
    """
    fractions = [-values[keep[name]] for name, values in scores.items() if bool(keep[name].any())]
    return min(1.0, float(torch.cat(fractions).max())) if fractions else 0.0
