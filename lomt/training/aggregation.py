r"""One update of the shared weights from every task's own gradient.

An aggregator maps the matrix whose rows are the tasks' weighted gradients, :math:`J \in \mathbb{R}^{T \times p}`,
to one vector.
It is called alike in every process, on rows summed over all of them, and what it draws at random follows from a
seed and the step.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from lomt.errors import TrainingError, UnknownNameError
from lomt.training.bayesagg import BayesAgg

__all__ = ["AGGREGATIONS", "Aggregator", "make_aggregator"]


@runtime_checkable
class Aggregator(Protocol):
    """The map from rows to one vector."""

    def __call__(self, rows: Float[Tensor, "tasks weights"], step: int) -> Float[Tensor, " weights"]:
        """Return the update's direction, of the size of a sum of gradients."""


class PCGrad:
    r"""Take from each gradient what points against another one, and add them up.

    For every task :math:`i`, over the others :math:`j` in random order, where :math:`\langle g_i', g_j \rangle < 0`:

    .. math:: g_i' \leftarrow g_i' - \frac{\langle g_i', g_j \rangle}{\lVert g_j \rVert^2} g_j

    Args:
        tasks: Names, in the order of the rows.
        seed: Of the order.

    References:
        Gradient Surgery for Multi-Task Learning, Yu et al., 2020, https://arxiv.org/abs/2001.06782, algorithm 1.
    """

    def __init__(self, tasks: Sequence[str], *, seed: int = 0) -> None:
        self._count, self._seed = len(tasks), seed

    def __call__(self, rows: Tensor, step: int) -> Tensor:
        """Return the sum of the projected rows."""
        return self._shares(rows, self._generator(step)) @ rows

    def _generator(self, step: int) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed * 1_000_003 + step)

    def _shares(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return the weight of each row in the sum; all of it happens in the rows' Gram matrix."""
        gram = (rows @ rows.T).double().cpu()
        mixed = torch.eye(len(rows), dtype=torch.float64)  # row i: what g_i' is made of
        for i in range(len(rows)):
            for j in torch.randperm(len(rows), generator=generator).tolist():
                product = float(mixed[i] @ gram[:, j])
                if i != j and product < 0 and self._projects(i, j, generator):
                    mixed[i, j] -= product / float(gram[j, j])
        return mixed.sum(0).to(rows)

    def _projects(self, i: int, j: int, generator: torch.Generator) -> bool:
        """Tell whether in a conflict row i gives way to row j."""
        return True


class WeightedPCGrad(PCGrad):
    r"""In a conflict one of the two gradients gives way, drawn from a distribution over tasks.

    Gradient :math:`i` is projected with probability :math:`p_j / (p_i + p_j)`, else :math:`j` is: the more
    important task gives
    way more rarely. Without conflict nothing differs from the sum. The paper's rule could not be read in full; this one
    has its stated properties.

    Args:
        tasks: Names, in the order of the rows.
        probabilities: :math:`p > 0` by task, up to a common factor; 1 where absent.
        seed: Of order and draws.

    Raises:
        UnknownNameError: If a name is no task.
        ValueError: If a probability is not above 0.

    References:
        Task Weighting through Gradient Projection for Multitask Learning, Bohn et al., 2024,
        https://arxiv.org/abs/2409.01793.
    """

    def __init__(
        self, tasks: Sequence[str], *, probabilities: Mapping[str, float] | None = None, seed: int = 0
    ) -> None:
        super().__init__(tasks, seed=seed)
        given = probabilities or {}
        for task, value in given.items():
            if task not in tasks:
                raise UnknownNameError("task in `probabilities`", task, tasks)
            if not value > 0:
                raise ValueError(f"Expected the probability of task `{task}` to be above 0, but got {value}.")
        self._p = [given.get(task, 1.0) for task in tasks]

    def _shares(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        gram = (rows @ rows.T).double().cpu()
        mixed = torch.eye(len(rows), dtype=torch.float64)
        pairs = torch.combinations(torch.arange(len(rows)))
        for place in torch.randperm(len(pairs), generator=generator).tolist():
            i, j = pairs[place].tolist()
            product = float(mixed[i] @ gram @ mixed[j])
            if product >= 0:
                continue
            chance = float(torch.rand((), generator=generator))
            away, stays = (i, j) if chance < self._p[j] / (self._p[i] + self._p[j]) else (j, i)
            length = float(mixed[stays] @ gram @ mixed[stays])
            mixed[away] = mixed[away] - product / length * mixed[stays]
        return mixed.sum(0).to(rows)


class PrimaryPCGrad(PCGrad):
    """Only the auxiliaries give way, and only to the target: weighted PCGrad where one task has all the weight.

    Args:
        tasks: Names, in the order of the rows.
        target: The task whose gradient stays.

    Raises:
        UnknownNameError: If there is no such task.
    """

    def __init__(self, tasks: Sequence[str], *, target: str) -> None:
        super().__init__(tasks)
        if target not in tasks:
            raise UnknownNameError("target task", target, tasks)
        self._target = list(tasks).index(target)

    def _projects(self, i: int, j: int, generator: torch.Generator) -> bool:
        return j == self._target


class _TorchJd:
    """An aggregator of torchjd; its own state goes on from call to call."""

    def __init__(self, kind: str, options: Mapping[str, Any]) -> None:
        try:
            from torchjd import aggregation

            self._aggregate = getattr(aggregation, _TORCHJD[kind])(**{**_DEFAULTS.get(kind, {}), **options})
        except ImportError as error:
            raise TrainingError(
                f"Expected torchjd and its solvers to be installed, because `aggregation` is {kind}. Install them with "
                "`pip install lomt[aggregation]`, or choose pcgrad, weighted_pcgrad or primary_pcgrad."
            ) from error
        except (TypeError, ValueError) as error:
            raise TrainingError(f"Aggregation `{kind}` cannot be made so: {error}.") from error

    def __call__(self, rows: Tensor, step: int) -> Tensor:
        """Return what torchjd makes of the rows."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step)
            direction: Tensor = self._aggregate(rows)
        return direction


_TORCHJD = {
    "mgda": "MGDA",
    "cagrad": "CAGrad",
    "imtl_g": "IMTLG",
    "aligned_mtl": "AlignedMTL",
    "config": "ConFIG",
    "graddrop": "GradDrop",
    "upgrad": "UPGrad",
}
# The constant for NYU-v2 in Liu et al., "Conflict-Averse Gradient Descent", 2021, arXiv 2110.14048.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {"cagrad": {"c": 0.4}}
_OWN: Mapping[str, Callable[..., Aggregator | BayesAgg]] = {
    "bayesagg": BayesAgg,
    "pcgrad": PCGrad,
    "weighted_pcgrad": WeightedPCGrad,
    "primary_pcgrad": PrimaryPCGrad,
}
AGGREGATIONS = (*_OWN, *_TORCHJD)


def make_aggregator(
    name: str,
    tasks: Sequence[str],
    options: Mapping[str, Any] | None = None,
    *,
    target: str | None = None,
    seed: int = 0,
) -> Aggregator | BayesAgg:
    """Return the named aggregator; `BayesAgg` looks at features, the others at gradients in the shared weights.

    Args:
        name: One of `AGGREGATIONS`.
        tasks: Names, in the order of the rows.
        options: Further arguments.
        target: The task that counts in the end, for ``"primary_pcgrad"``.
        seed: Of what is drawn at random.

    Raises:
        UnknownNameError: If there is no such aggregator or option.
        ValueError: If the value of an option does not fit.
        TrainingError: If torchjd is needed and not installed, does not take the options, or a target is missing.
    """
    if name not in AGGREGATIONS:
        raise UnknownNameError("aggregation", name, AGGREGATIONS)
    if name in _TORCHJD:
        return _TorchJd(name, options or {})
    known = inspect.signature(_OWN[name]).parameters
    chosen = dict(options or {})
    for option in chosen:
        if option in ("tasks", "target", "seed") or option not in known:
            free = [o for o in known if o not in ("tasks", "target", "seed")]
            raise UnknownNameError(f"option of aggregation {name}", option, free)
    if "seed" in known:
        chosen["seed"] = seed
    if "target" in known:
        if target is None:
            raise TrainingError(
                f"Expected `target` to name a task, because of aggregation `{name}`, but got none."
            )
        chosen["target"] = target
    return _OWN[name](tasks, **chosen)
