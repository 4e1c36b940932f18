"""From a requested sparsity to strengths and thresholds: the target is reached exactly, at a given step."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lomt.errors import SparsityTargetError
from lomt.sparsity.coupled_groups import CoupledGroups
from lomt.sparsity.coupled_lasso import CoupledGroupLasso, group_levels, rates_of
from lomt.sparsity.group_mask import GroupMask
from lomt.sparsity.measures import Measure, removable_share
from lomt.sparsity.proximal_penalty import unwrapped
from lomt.sparsity.structured_threshold import GroupThresholds

__all__ = ["ControlPoint", "SparsityController", "cubic_ramp"]

_CONTROLS = 50  # along the ramp
# More than a requested share at which thresholds are taken back a little; less is left as it is.
_HYSTERESIS = 0.005
_LATEST = 0.25  # the share of the ramp that is taken to be left, at least, when a strength is chosen


def cubic_ramp(progress: float, first: float, last: float) -> float:
    r"""Return the share to be reached: :math:`s_1 + (s_0 - s_1)(1 - p)^3`, fast at first and slow at last.

    Args:
        progress: :math:`p`, from 0 to 1; clamped.
        first: Share :math:`s_0` at 0.
        last: Share :math:`s_1` at 1.

    Example:
        >>> [round(cubic_ramp(p, 0.0, 0.8), 2) for p in (0, 0.25, 0.5, 1)]
        [0.0, 0.46, 0.7, 0.8]

    References:
        Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", 2017,
        https://arxiv.org/abs/1710.01878, equation 1.
    """
    left = 1 - min(max(progress, 0.0), 1.0)
    return last + (first - last) * left**3


@dataclass(frozen=True)
class ControlPoint:
    r"""What the controller found and did at one step.

    Args:
        step: Optimizer steps taken.
        goal: Share that the ramp asks for.
        reached: Share after the step.
        zero: Share of all groups that are zero.
        strength: :math:`\eta\lambda`, by how much the group lasso lowers every group's level in a step.
        thresholds: Thresholds by name.
    """

    step: int
    goal: float
    reached: float
    zero: float
    strength: float
    thresholds: Mapping[str, float]


class SparsityController:
    r"""Bring a network to a requested share of removable channels, parameters or MACs along a cubic ramp.

    Every `every` steps from `start` to `end` the groups are put in the order in which they would go, and the fewest
    of them whose loss reaches the ramp's share are taken. The last channel of a layer is never among them, but that
    of a residual branch may be where the lasso's `branch_weight` is not 0.

    *With thresholds* the order is that of `GroupThresholds.margins`, by how much the logit must still rise. All
    logits are raised by one amount, which lies between the margins of the last group to go and the first to stay:
    the controller sets the level, and what is learned in between is how the logits differ. The level falls again
    only where more than 0.5 percentage points too many are zero.

    *With the group lasso alone* the order is that of `group_levels`. The groups are set to zero and kept there. Lambda
    is such that the group at the target's rank, left alone, would be zero at `end`: :math:`\eta\lambda = q / r` for
    its level :math:`q` and the :math:`r` steps left (at least a quarter of the ramp), so that what is cut is small
    already. :math:`\lambda` follows the learning rate :math:`\eta`. Groups that stay at the target are not shrunk, and
    those that go later than at the next control are not shrunk to zero (`CoupledGroupLasso.restrict`), so that the
    share never runs ahead. *With both*, thresholds decide and the strength is half of that.

    At `end` the share is reached within one group, and the pattern is frozen: thresholds are written into the
    weights, lambda is zero, and groups at zero stay there, gradients and moments included, while all others heal.

    Args:
        groups: What goes together; with groups of single layers the share that is reached is that of zero groups.
        target: Requested share, 0 up to but not 1.
        start: Optimizer step of the first control.
        end: That of the last.
        every: Steps from one control to the next; a fiftieth of the ramp if None.
        measure: What the target is a share of; removable channels if None.
        thresholds: Thresholds on the same groups.
        lasso: A group lasso over the same groups.

    Raises:
        ValueError: If the steps are not in order, or there is nothing to control.
        SparsityTargetError: If the target is out of reach.

    References:
        The ramp is that of `cubic_ramp`; the laws are our own.
    """

    def __init__(
        self,
        groups: CoupledGroups,
        target: float,
        *,
        start: int,
        end: int,
        every: int | None = None,
        measure: Measure | None = None,
        thresholds: GroupThresholds | None = None,
        lasso: CoupledGroupLasso | None = None,
    ) -> None:
        if thresholds is None and lasso is None:
            raise ValueError("Expected `thresholds` or `lasso` to be given, but got neither.")
        if not 0 <= start <= end or end < 1:
            raise ValueError(
                f"Expected `start` to be at least 0 and `end` at least 1 and `start`, but got {start} and {end}."
            )
        if every is not None and every < 1:
            raise ValueError(f"Expected `every` to be at least 1, but got {every}.")
        self.groups, self.target, self.start, self.end = groups, target, start, end
        self.every = every or max(1, (end - start) // _CONTROLS)
        self.measure = measure or removable_share(groups)
        self.thresholds, self.lasso = thresholds, lasso
        self._check_target()
        self._mask = GroupMask(groups)
        self._step, self._first, self._strength = 0, 0.0, 0.0
        self._is_frozen = False
        self._curve: list[ControlPoint] = []
        self._handles: list[RemovableHandle] = []

    @property
    def reachable(self) -> float:
        """The largest share: one channel left in every layer."""
        is_alive = torch.zeros(self.groups.count, dtype=torch.bool)
        is_alive[self._staying(self.groups.levels().cpu())] = True
        return self.measure(is_alive)

    @property
    def is_frozen(self) -> bool:
        """Whether the pattern is final."""
        return self._is_frozen

    @property
    def steps(self) -> int:
        """Optimizer steps seen so far."""
        return self._step

    @property
    def curve(self) -> tuple[ControlPoint, ...]:
        """What was done so far, control by control."""
        return tuple(self._curve)

    def is_alive(self) -> Bool[Tensor, " groups"]:
        """Tell which groups are not zero, behind the thresholds where there are any."""
        zeros = self.groups.zeros()
        return ~(zeros | self.thresholds.zeros() if self.thresholds is not None else zeros).cpu()

    def attach(self, optimizer: Any) -> None:
        """Control after each of the optimizer's steps from now on; the group lasso is attached as well.

        Args:
            optimizer: Of the groups' weights and, with thresholds, of their logits.

        Raises:
            ValueError: If this is attached already.
        """
        if self._handles:
            raise ValueError(
                "Expected the controller to be attached to no optimizer, but got a second one. "
                "Call detach() first."
            )
        inner = unwrapped(optimizer)
        if self.lasso is not None:
            self.lasso.attach(inner)
        self._mask.attach(inner)
        self._handles = [
            inner.register_step_pre_hook(self._before_step),
            inner.register_step_post_hook(self._after_step),
        ]

    def detach(self) -> None:
        """Control no further steps."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._mask.detach()
        if self.lasso is not None:
            self.lasso.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: plain JSON values, and the mask under ``is_dead``."""
        return {
            "step": self._step,
            "first": self._first,
            "strength": self._strength,
            "is_frozen": self._is_frozen,
            "curve": [asdict(point) for point in self._curve],
            "is_dead": self._mask.is_dead.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; weights and the optimizer's state are loaded before.

        Raises:
            ValueError: If the state is of other groups.
        """
        if len(state["is_dead"]) != self.groups.count:
            raise ValueError(
                f"Expected `state` to be of {self.groups.count} groups, but got one of {len(state['is_dead'])}."
            )
        self._step, self._first, self._strength = state["step"], state["first"], state["strength"]
        self._is_frozen = state["is_frozen"]
        self._curve = [ControlPoint(**point) for point in state["curve"]]
        self._mask.add(state["is_dead"].bool())

    def _check_target(self) -> None:
        if not 0 <= self.target < 1:
            raise SparsityTargetError(
                f"Expected `target` to be at least 0 and below 1, but got {self.target}."
            )
        if self.target > self.reachable:
            held = [name for name, reason in self.groups.set_aside.items() if "not asked for" not in reason]
            raise SparsityTargetError(
                f"Expected `target` to be between 0 and {self.reachable:.3f}, which is reached with one channel left "
                f"in every layer, but got {self.target}. {len(held)} sets of channels are protected or cannot go "
                "without a trace; protect fewer layers, add components or ask for less."
            )

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self.lasso is not None:
            rate = max(rates_of(self.groups, optimizer))
            self.lasso.lambda_ = self._strength / rate if rate > 0 else 0.0
        if self._is_frozen and self.thresholds is not None:
            self.thresholds.logits.grad = None

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None and bool(found_inf):
            return
        self._step += 1
        is_due = self._step == self.end or (self._step - self.start) % self.every == 0
        if not self._is_frozen and self.start <= self._step <= self.end and is_due:
            self._control(optimizer)

    @torch.no_grad()
    def _control(self, optimizer: Optimizer) -> None:
        if not self._curve:
            self._first = min(self.measure(self.is_alive()), self.target)
        goal = self._goal(self._step)
        scores = self._scores(optimizer)
        order, killable = self._order(scores)
        count = self._count_for(goal, order, killable)
        is_dead = torch.zeros(self.groups.count, dtype=torch.bool)
        is_dead[order[:count]] = True
        if self.thresholds is None:
            self._mask.add(is_dead, optimizer)
        else:
            self._raise(self.thresholds, goal, scores, order, count)
        if self.lasso is not None:
            self._strength = self._next_strength(optimizer, order, killable)
            self._restrict(order, killable)
        if self._step == self.end:
            self._freeze(is_dead, optimizer)
        self._note(goal)

    def _scores(self, optimizer: Optimizer) -> Float[Tensor, " groups"]:
        """Return how long each group would stay; the lower, the sooner it goes."""
        if self.thresholds is not None:
            return self.thresholds.margins().cpu()
        assert self.lasso is not None
        return group_levels(self.groups, optimizer, self.lasso.metric).cpu()

    def _order(self, scores: Tensor) -> tuple[Int[Tensor, " groups"], int]:
        """Return all groups in the order in which they go, and how many may."""
        ranks = scores.masked_fill(self._mask.is_dead, -math.inf)
        staying = self._staying(scores)
        ranks[staying] = math.inf
        return ranks.argsort(stable=True), self.groups.count - len(staying)

    def _staying(self, scores: Tensor) -> Int[Tensor, " staying"]:
        """Return the best group of every set; not of a branch, where the group lasso may end whole branches."""
        best = self.groups.best_of_each_set(scores)
        if self.lasso is not None and self.lasso.branch_weight:
            best = best[torch.tensor([not own.is_branch_end for own in self.groups.sets])]
        return best

    def _goal(self, step: int) -> float:
        progress = (step - self.start) / max(self.end - self.start, 1)
        return self.target if step == self.end else cubic_ramp(progress, self._first, self.target)

    def _count_for(self, goal: float, order: Tensor, killable: int) -> int:
        """Return how many groups must go for the share to be nearest to the goal."""
        low, high = 0, killable
        while low < high:
            middle = (low + high) // 2
            if self._share(order, middle) >= goal:
                high = middle
            else:
                low = middle + 1
        if low and goal - self._share(order, low - 1) < self._share(order, low) - goal:
            return low - 1
        return low

    def _share(self, order: Tensor, count: int) -> float:
        is_alive = torch.ones(self.groups.count, dtype=torch.bool)
        is_alive[order[:count]] = False
        return self.measure(is_alive)

    def _raise(
        self, thresholds: GroupThresholds, goal: float, scores: Tensor, order: Tensor, count: int
    ) -> None:
        best = self._staying(scores)
        # The best of each set come last in the order; they are spared where the level is above them.
        rest = scores[order[count : self.groups.count - len(best)]]
        shift = _between(
            float(scores[order[:count]].max()) if count else -math.inf,
            float(rest.min()) if len(rest) else math.inf,
        )
        if shift < 0 and self.measure(self.is_alive()) - goal <= _HYSTERESIS and self._step != self.end:
            shift = 0.0
        thresholds.raise_by(shift)
        spared = torch.zeros(self.groups.count, dtype=torch.bool)
        spared[best] = scores[best] <= shift
        thresholds.spare(spared.to(self.groups.device))

    def _next_strength(self, optimizer: Optimizer, order: Tensor, killable: int) -> float:
        assert self.lasso is not None
        left = max(self.end - self._step, _LATEST * (self.end - self.start), 1)
        rank = min(self._count_for(self.target, order, killable), killable)
        levels = group_levels(self.groups, optimizer, self.lasso.metric).cpu()
        level = float(levels[order[rank - 1]]) if rank else 0.0
        return level / left * (0.5 if self.thresholds is not None else 1.0)

    def _restrict(self, order: Tensor, killable: int) -> None:
        """Let the group lasso shrink what is to go until the end, and zero what is to go until the next control."""
        assert self.lasso is not None
        next_step = min(self._step + self.every, self.end)
        due = self._count_for(self._goal(next_step), order, killable)
        doomed = self._count_for(self.target, order, killable)
        is_spared = torch.ones(self.groups.count, dtype=torch.bool)
        is_spared[order[:doomed]] = False
        is_held = ~is_spared
        is_held[order[:due]] = False
        self.lasso.restrict(is_spared, is_held)

    def _freeze(self, is_dead: Tensor, optimizer: Optimizer) -> None:
        if self.thresholds is not None:
            self.thresholds.settle()
            is_dead = is_dead | ~self.is_alive()
        self._mask.add(is_dead, optimizer)
        self._strength, self._is_frozen = 0.0, True

    def _note(self, goal: float) -> None:
        is_alive = self.is_alive()
        self._curve.append(
            ControlPoint(
                self._step,
                goal,
                self.measure(is_alive),
                1 - int(is_alive.count_nonzero()) / self.groups.count,
                self._strength,
                self.thresholds.thresholds if self.thresholds is not None else {},
            )
        )


def _between(below: float, above: float) -> float:
    """Return a level between two margins of which either may be infinite."""
    if math.isinf(below) and below < 0:
        return 0.0 if above > 0 else above - 1.0
    if math.isinf(above):
        return below + 1.0
    return (below + above) / 2
