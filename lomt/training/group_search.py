r"""Groups of tasks found by gradient descent while the networks of all groups are trained (DMTG).

There are :math:`k` networks, each with a decoder for every task. Task :math:`t` is shared out among them by

.. math:: G_t = \operatorname{softmax}\Big( \frac{A_t + g_t}{\tau} \Big), \qquad
    L = \sum_t w_t \sum_{j = 1}^{k} G_{tj} L_{tj} + \beta \operatorname{mean}_t H_t

with learned logits :math:`A`, fresh Gumbel noise :math:`g` at every step, a constant temperature :math:`\tau` and the
loss :math:`L_{tj}` of task :math:`t` in network :math:`j`. A task therefore trains most the network that suits it, and
goes where its loss is small. :math:`H_t = -\sum_j p_{tj} \log p_{tj} + (1 - p_{tj}) \log(1 - p_{tj})` with
:math:`p_t = \operatorname{softmax}(A_t)` pulls towards clear decisions, if wanted. In the end a task belongs to the
network with its largest logit.

References:
    Gao et al., "DMTG: One-Shot Differentiable Multi-Task Grouping", 2024, https://arxiv.org/abs/2407.05082; the
    entropy as in the authors' code.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from lomt.training.weighting.weighting import Moment, Weighting

__all__ = ["GroupNetworks", "GroupWeighting", "in_group"]

_SPREAD = 1e-3  # of the first logits, so that no two are equal


def in_group(task: str, group: int) -> str:
    """Return the name of a task in one of the networks, which no task of a recipe has.

    Example:
        >>> in_group("depth", 1)
        'depth@1'
    """
    return f"{task}@{group}"


class GroupNetworks(nn.Module):
    """Several multitask networks as one, whose tasks are those of `in_group`.

    Args:
        networks: From images to predictions by task.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> dict[str, Tensor]:
        """Predict every task by every network."""
        return {
            in_group(task, group): prediction
            for group, network in enumerate(self.networks)
            for task, prediction in network(images).items()
        }


class GroupWeighting(Weighting):
    r"""Learn which network each task belongs to, together with the networks.

    Noise follows from the seed and the step alone: the same in every process, and after a break.

    Args:
        weights: :math:`w_t` by task name.
        groups: :math:`k`, at least 1.
        temperature: :math:`\tau > 0`.
        hard: Whether each step gives each task to one network, with the soft gradient (straight through). Soft shares
            train all networks for all tasks at first; hard ones settle earlier, and sooner wrongly.
        entropy: :math:`\beta \ge 0`.
        seed: Of the first logits and of the noise.

    Raises:
        ValueError: If a number is out of its range.
    """

    _weights: Tensor

    def __init__(
        self,
        weights: Mapping[str, float],
        groups: int,
        *,
        temperature: float = 4.0,
        hard: bool = False,
        entropy: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if groups < 1:
            raise ValueError(f"Expected `groups` to be at least 1, but got {groups}.")
        if not temperature > 0:
            raise ValueError(f"Expected `temperature` to be above 0, but got {temperature}.")
        if not entropy >= 0:
            raise ValueError(f"Expected `entropy` to be at least 0, but got {entropy}.")
        self._tasks = tuple(weights)
        self.register_buffer("_weights", torch.tensor(list(weights.values()))[:, None], persistent=False)
        self._temperature, self._hard, self._entropy, self._seed = temperature, hard, entropy, seed
        shape = (len(self._tasks), groups)
        first = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
        self.logits = nn.Parameter(1 + _SPREAD * first)
        self._noise = torch.zeros(())

    @property
    def membership(self) -> Float[Tensor, "tasks groups"]:
        r""":math:`p_t`, which by Gumbel's trick is the chance of each network to be the best for a task at a step."""
        return self.logits.detach().softmax(1).cpu()

    def before_step(self, moment: Moment) -> None:
        """Draw the step's noise."""
        drawn = np.random.default_rng((self._seed, moment.step)).gumbel(size=tuple(self.logits.shape))
        self._noise = torch.from_numpy(drawn).to(self.logits)

    def coefficients(self) -> dict[str, Tensor]:
        """Return :math:`w_t G_{tj}`."""
        shares = self._shares().detach() * self._weights
        return {
            in_group(task, group): share
            for task, row in zip(self._tasks, shares, strict=True)
            for group, share in enumerate(row)
        }

    def observe(self, losses: Mapping[str, Tensor]) -> None:
        """Set the gradient of the logits."""
        logits = self.logits
        rows = [
            [losses[in_group(task, group)].detach().to(logits) for group in range(logits.shape[1])]
            for task in self._tasks
        ]
        table = torch.stack([torch.stack(row) for row in rows]) * self._weights
        with torch.enable_grad():
            total = (self._shares() * table).sum()
            if self._entropy:
                total = total + self._entropy * _entropy(logits.softmax(1))
            (logits.grad,) = torch.autograd.grad(total, [logits])

    def _shares(self) -> Tensor:
        soft = ((self.logits + self._noise) / self._temperature).softmax(1)
        if not self._hard:
            return soft
        chosen = F.one_hot(soft.argmax(1), soft.shape[1]).to(soft)
        return chosen + soft - soft.detach()


def _entropy(chances: Tensor) -> Tensor:
    """Return the mean over tasks, 0 where all chances are 0 or 1."""
    parts = [torch.xlogy(part, part.clamp_min(1e-30)) for part in (chances, 1 - chances)]
    return -(parts[0] + parts[1]).sum(1).mean()
