"""Group lasso over coupled groups, with a residual branch as one group on top of its channels."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.optim import Optimizer

from lomt.sparsity.bunch import newton_step
from lomt.sparsity.coupled_groups import CoupledGroups, position_norms, shrink_factors
from lomt.sparsity.prox import group_weight, solve_norms
from lomt.sparsity.proximal_penalty import Metric, ProximalPenalty, second_moment

__all__ = ["CoupledGroupLasso", "group_levels", "rates_of"]

_MOST_SWEEPS = 5
_MOST_LOSS = 0.5  # of a group that may not become zero


class CoupledGroupLasso(ProximalPenalty):
    r"""Drive whole coupled groups to exactly zero, so that what is penalised is what can be removed.

    Minimises :math:`L + \lambda \left(\sum_g \sqrt{n_g} \lVert w_g \rVert_2 + \beta \sum_b \sqrt{n_b} \lVert w_b
    \rVert_2\right)` for the training loss :math:`L`, where :math:`w_g` are all consumers' slices of channel
    :math:`g`, :math:`w_b` are all groups that the last layer of residual branch :math:`b` reads, and :math:`n` is the
    size. The penalty acts through the proximal step alone. The step's threshold is :math:`\eta\lambda\sqrt{n}` with
    the current learning rate :math:`\eta`, which must be the same for all consumers of a channel.

    The groups form a forest: each branch holds its channels. In the Euclidean metric the proximal operator of
    the sum is that of the channels followed by that of the branches, which is exact. In Adam's metric that is
    not so, because the outer step turns the inner directions; :math:`\beta` must be 0 there.

    Groups with a parameter that had no gradient in a step are left alone in it.

    Args:
        groups: From `lomt.sparsity.coupled_groups`; their parameters are changed in place.
        lambda_: Strength :math:`\lambda \ge 0`; may be set anew at any time.
        metric: ``"euclidean"`` for any optimizer, ``"adam"`` for torch's Adam and AdamW.
        branch_weight: Strength :math:`\beta \ge 0` of the branches beside the channels.
        bias_correction: Whether Adam's metric is bias-corrected, as in `GroupLasso`.

    Raises:
        ValueError: If a strength is out of its range, or branches are asked for in Adam's metric.
        UnknownNameError: If there is no such metric.

    References:
        Jenatton, Mairal, Obozinski and Bach, "Proximal Methods for Hierarchical Sparse Coding", 2011,
        https://arxiv.org/abs/1009.2139, proposition 1 (order of the steps). Upadhyay et al., "Less is More -
        Towards parsimonious multi-task models using structured sparsity", 2024, https://arxiv.org/abs/2308.12114.
    """

    def __init__(
        self,
        groups: CoupledGroups,
        lambda_: float,
        *,
        metric: Metric = "euclidean",
        branch_weight: float = 0.0,
        bias_correction: bool = True,
    ) -> None:
        super().__init__(lambda_, metric)
        if not 0 <= branch_weight < math.inf:
            raise ValueError(
                f"Expected `branch_weight` to be finite and at least 0, but got {branch_weight}."
            )
        if branch_weight and metric == "adam":
            raise ValueError(
                f"Expected `branch_weight` to be 0 in metric `adam`, but got {branch_weight}: nested groups have no "
                "exact step there. Use metric `euclidean`."
            )
        self.groups, self.bias_correction, self.branch_weight = groups, bias_correction, branch_weight
        is_branch = torch.tensor([own.is_branch_end for own in groups.sets])
        sizes = torch.zeros(len(groups.sets), dtype=torch.int64).index_add(0, groups.set_of, groups.sizes)
        roots = torch.tensor([group_weight(int(size)) for size in sizes], dtype=torch.float64)
        self._set_weights = torch.where(is_branch, roots, 0) * branch_weight
        self._norms: Tensor | None = None
        self._is_spared = torch.zeros(groups.count, dtype=torch.bool)
        self._is_held = torch.zeros(groups.count, dtype=torch.bool)

    @torch.no_grad()
    def penalty(self) -> Float[Tensor, ""]:
        """Return the penalty's value, branches included, for logs; it has no gradient."""
        squares = self.groups.squares()
        inner = (squares.sqrt() * self.groups.weights.to(squares)).sum()
        outer = (self._set_sums(squares).sqrt() * self._set_weights.to(squares)).sum()
        return self.lambda_ * (inner + outer)

    def restrict(self, is_spared: Bool[Tensor, " groups"], is_held: Bool[Tensor, " groups"]) -> None:
        """Say from now on which groups are not shrunk, and which are shrunk, but never to zero.

        Args:
            is_spared: Groups that are left alone.
            is_held: Groups that lose at most half of their weight in a step.
        """
        self._is_spared, self._is_held = is_spared.cpu(), is_held.cpu()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to go on to the last bit: lambda and where Newton starts."""
        norms = {"is_spared": self._is_spared.clone(), "is_held": self._is_held.clone()}
        if self._norms is not None:
            norms["groups"] = self._norms.clone()
        return {"metric": self.metric, "lambda_": self.lambda_, "norms": norms}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            ValueError: If the state belongs to another metric or other groups; nothing is changed then.
        """
        if state["metric"] != self.metric:
            raise ValueError(
                f"Expected `state` to be of metric `{self.metric}`, but got one of `{state['metric']}`."
            )
        spared = state["norms"]["is_spared"]
        if len(spared) != self.groups.count:
            raise ValueError(
                f"Expected `state` to be of {self.groups.count} groups, but got one of {len(spared)}."
            )
        norms = state["norms"].get("groups")
        self.lambda_ = state["lambda_"]
        self.restrict(spared.bool(), state["norms"]["is_held"].bool())
        self._norms = None if norms is None else norms.to(self.groups.device, copy=True)

    def _parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        return ((own.name, own.parameter) for own in self.groups.tensors)

    @torch.no_grad()
    def _shrink(self, optimizer: Optimizer) -> None:
        strength = self._strengths(optimizer)
        if not bool(strength.any()):
            return
        if self.metric == "adam":
            self._shrink_in_adam(optimizer, strength * self.groups.weights.to(strength))
        else:
            self._shrink_euclidean(strength)

    def _shrink_euclidean(self, strength: Tensor) -> None:
        squares = self.groups.squares()
        factors = shrink_factors(squares, strength * self.groups.weights.to(squares))
        if self.branch_weight:
            # A branch whose channels are not all due is left alone.
            set_of = self.groups.set_of.to(squares.device)
            least = torch.full(self._set_weights.shape, math.inf, dtype=torch.float64, device=squares.device)
            least = least.scatter_reduce(0, set_of, strength, "amin")
            outer = shrink_factors(
                self._set_sums(squares * factors.square()), least * self._set_weights.to(squares)
            )
            factors = factors * outer[set_of]
        held = self._is_held.to(factors.device)
        self.groups.scale(torch.where(held, factors.clamp(min=_MOST_LOSS), factors))

    def _shrink_in_adam(self, optimizer: Optimizer, tau: Tensor) -> None:
        metrics = _denominators(self.groups, optimizer, self.bias_correction)
        theta = self._solve(metrics, tau)
        ratios = torch.where(theta > 0, tau / torch.where(theta > 0, theta, 1), math.inf)
        ratios = torch.where(tau > 0, ratios, 0)
        held = self._is_held.to(tau.device)
        parts = zip(
            self.groups.tensors,
            metrics,
            self.groups.spread(ratios, 0.0),
            self.groups.spread(held, False),
            strict=True,
        )
        for own, metric, ratio, is_held in parts:
            divisor = (ratio.to(metric.dtype) / metric).add_(
                1
            )  # where it is infinite the weight becomes zero
            divisor = torch.where(is_held, divisor.clamp(max=1 / _MOST_LOSS), divisor)
            own.parameter.div_(divisor.to(own.parameter.dtype))
        # As norms on their way to zero shrink steadily, this is close to where the next step ends.
        self._norms = theta.float()

    def _solve(self, metrics: list[Tensor], tau: Tensor) -> Tensor:
        """Return the norm of every group's minimiser, by Newton steps for all groups at once."""
        groups = self.groups
        weights = [
            own.parameter.to(metric.dtype) for own, metric in zip(groups.tensors, metrics, strict=True)
        ]
        norms = groups.squares().sqrt().float()
        if self._norms is not None:
            norms = torch.where(tau > 0, self._norms.to(norms.device), norms)
        for _ in range(_MOST_SWEEPS):
            totals, slopes = [], []
            for own, weight, metric, theta, threshold in zip(
                groups.tensors,
                weights,
                metrics,
                groups.spread(norms),
                groups.spread(tau.float()),
                strict=True,
            ):
                others = [dim for dim in range(weight.ndim) if dim != own.dim]
                u = (threshold / metric).add_(theta)
                a = (weight / u).square_()
                totals.append(a.sum(others))
                slopes.append(a.div_(u).sum(others))
            norms, is_settled = newton_step(
                norms, groups.sums(torch.cat(totals)), groups.sums(torch.cat(slopes))
            )
            if bool(is_settled.all()):
                break
        is_settled |= tau == 0
        found = norms.double()
        for group in (~is_settled).nonzero().flatten().tolist():
            rows = [
                _row(own.group_of == group, own.dim, w)
                for own, w in zip(groups.tensors, weights, strict=True)
            ]
            denominators = [
                _row(own.group_of == group, own.dim, d)
                for own, d in zip(groups.tensors, metrics, strict=True)
            ]
            found[group] = solve_norms(
                torch.cat(rows)[None], torch.cat(denominators)[None], float(tau[group])
            )[0]
        return found

    def _set_sums(self, values: Tensor) -> Tensor:
        sums = values.new_zeros(len(self.groups.sets))
        return sums.index_add(0, self.groups.set_of.to(values.device), values)

    def _strengths(self, optimizer: Optimizer) -> Tensor:
        r"""Return :math:`\eta\lambda` of every group, 0 for those that are left alone."""
        rates = rates_of(self.groups, optimizer)
        tensors = self.groups.tensors
        per_position = torch.cat(
            [torch.full((len(own.group_of),), rate) for own, rate in zip(tensors, rates, strict=True)]
        ).double()
        due = torch.tensor([own.parameter.grad is not None for own in tensors])
        lengths = torch.tensor([len(own.group_of) for own in tensors])
        is_idle = self.groups.sums((~due).repeat_interleave(lengths).to(self.groups.device).int()) > 0
        is_idle |= self._is_spared.to(is_idle.device)
        largest = max(rates)
        if min(rates) < largest:
            ones = torch.ones_like(per_position)
            means = self.groups.sums(per_position.to(self.groups.device)) / self.groups.sums(
                ones.to(self.groups.device)
            )
            self._check_rates(means, rates)
            return torch.where(is_idle, 0, means * self.lambda_)
        return torch.where(is_idle, 0.0, largest * self.lambda_).double()

    def _check_rates(self, means: Tensor, rates: list[float]) -> None:
        for own, rate in zip(self.groups.tensors, rates, strict=True):
            numbers = own.group_of[own.group_of < self.groups.count].to(means.device)
            if bool(((means[numbers] - rate).abs() > 1e-6 * rate).any()):
                raise ValueError(
                    f"Expected all consumers of a channel to have one learning rate, but got {rate} for "
                    f"`{own.name}` and another for a weight coupled with it. Put them into one parameter group."
                )


def group_levels(
    groups: CoupledGroups, optimizer: Optimizer, metric: Metric, *, bias_correction: bool = True
) -> Float[Tensor, " groups"]:
    r"""Return the step length :math:`\eta\lambda` at which each group would go to zero in one proximal step.

    That is :math:`\lVert w_g \rVert_2 / \sqrt{n_g}`, and :math:`\lVert d \odot w_g \rVert_2 / \sqrt{n_g}` with
    Adam's denominators :math:`d` in Adam's metric.

    Args:
        groups: The groups.
        optimizer: Its state is read in Adam's metric.
        metric: Of the proximal step.
        bias_correction: Whether Adam's metric is bias-corrected.
    """
    if metric == "euclidean":
        return groups.levels()
    with torch.no_grad():
        metrics = _denominators(groups, optimizer, bias_correction)
        parts = [
            position_norms(own.parameter * d, own.dim) for own, d in zip(groups.tensors, metrics, strict=True)
        ]
        return groups.sums(torch.cat(parts).double().square()).sqrt() / groups.weights.to(groups.device)


def _options(groups: CoupledGroups, optimizer: Optimizer) -> list[Mapping[str, Any]]:
    owner = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    return [owner[id(own.parameter)] for own in groups.tensors]


def rates_of(groups: CoupledGroups, optimizer: Optimizer) -> list[float]:
    """Return the learning rate of every weight in the groups."""
    return [float(options["lr"]) for options in _options(groups, optimizer)]


def _denominators(groups: CoupledGroups, optimizer: Optimizer, bias_correction: bool) -> list[Tensor]:
    """Return what Adam has just divided by, weight by weight; ones where it has not stepped."""
    found = []
    for own, options in zip(groups.tensors, _options(groups, optimizer), strict=True):
        state = optimizer.state[own.parameter]
        if own.parameter.grad is None and not state:
            found.append(torch.ones_like(own.parameter, dtype=torch.float32))
            continue
        moment = second_moment(own.name, state, options)
        beta = float(options["betas"][1]) if bias_correction else 0.0
        correction = 1 - beta ** float(state["step"])
        values = moment if moment.dtype == torch.float64 else moment.float()
        found.append((values / correction).sqrt_().add_(float(options["eps"])))
    return found


def _row(is_own: Tensor, dim: int, values: Tensor) -> Tensor:
    """Return the group's entries of one tensor in a row, float64."""
    chosen: Tensor = values.movedim(dim, 0)[is_own.to(values.device)].flatten().double()
    return chosen
