"""Learnable soft thresholds on whole coupled groups, so that what they zero can be removed."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lomt.errors import SparsityTargetError, UnknownNameError
from lomt.sparsity.coupled_groups import CoupledGroups, GroupSet, shrink_factors
from lomt.sparsity.soft_threshold import SoftThresholds, starting_logit

__all__ = [
    "GRANULARITIES",
    "OFF_LOGIT",
    "Granularity",
    "GroupThresholds",
    "add_group_thresholds",
    "bake_thresholds",
    "thresholds_of",
]

Granularity = Literal["component", "stage", "layer"]
GRANULARITIES = ("component", "stage", "layer")

OFF_LOGIT = -200.0
"""A threshold of 1e-87: every factor rounds to one, and what is zero stays zero."""

_SUBMODULES = ("group_thresholds", "soft_thresholds")


class GroupThresholds(nn.Module):
    r"""Thresholds that shrink coupled groups: the group lasso's proximal operator with a learnable strength.

    .. math:: w_g \leftarrow \max(0, 1 - \tau\sqrt{n_g} / \lVert w_g \rVert_2) \, w_g, \qquad \tau = \sigma(s)

    where :math:`w_g` are all consumers' slices of a channel, :math:`n_g` their number and :math:`s` the logit of
    the group's component, stage or layer. A group is zero exactly when its root mean square is at most
    :math:`\tau`; it then has no gradient, so that it stays zero unless the threshold falls.

    Made by `add_group_thresholds`. All factors of a forward pass are computed once, when the first layer asks.

    Args:
        groups: The groups.
        names: Names of the logits.
        logit_of: Which logit each group has.
        initial: First logits.

    References:
        Structured form of the thresholds of Xiang et al., "AdapMTL: Adaptive Pruning Framework for Multitask
        Learning Model", 2024, https://arxiv.org/abs/2408.03913.
    """

    logit_of: Tensor
    is_spared: Tensor

    def __init__(
        self,
        groups: CoupledGroups,
        names: Sequence[str],
        logit_of: Int[Tensor, " groups"],
        initial: Sequence[float],
    ) -> None:
        super().__init__()
        self.names, self.groups = tuple(names), groups
        self.logits = nn.Parameter(torch.tensor(initial, device=groups.device))
        self.register_buffer("logit_of", logit_of.to(groups.device), persistent=False)
        # Groups that no threshold touches: the last of a layer.
        spared = torch.zeros(groups.count, dtype=torch.bool, device=groups.device)
        self.register_buffer("is_spared", spared)
        self._is_running = False
        self._parts: list[Tensor] | None = None

    @property
    def thresholds(self) -> dict[str, float]:
        r"""Thresholds :math:`\tau = \sigma(s)` by name."""
        return dict(zip(self.names, torch.sigmoid(self.logits.detach()).tolist(), strict=True))

    def factors(self) -> Float[Tensor, " groups"]:
        """Return what every group is multiplied by, in float64; differentiable."""
        tau = torch.sigmoid(self.logits.double())[self.logit_of]
        tau = torch.where(self.is_spared, 0, tau * self.groups.weights.to(tau.device))
        return shrink_factors(self.groups.squares(), tau)

    @torch.no_grad()
    def zeros(self) -> Bool[Tensor, " groups"]:
        """Tell which groups are zero behind the threshold."""
        return self.factors() == 0

    def sparsity(self) -> float:
        """Return the share of groups that are zero."""
        return float(self.zeros().double().mean())

    def component_sparsity(self) -> dict[str, float]:
        """Return the share of groups that are zero, by component."""
        zeros = self.zeros().split([own.count for own in self.groups.sets])
        found: dict[str, list[Tensor]] = {}
        for own, part in zip(self.groups.sets, zeros, strict=True):
            found.setdefault(own.component, []).append(part)
        return {name: float(torch.cat(parts).double().mean()) for name, parts in found.items()}

    @torch.no_grad()
    def margins(self) -> Float[Tensor, " groups"]:
        r"""Return by how much each group's logit must rise until the group is zero: :math:`\sigma^{-1}(r_g) - s`.

        :math:`r_g` is the group's root mean square, taken to be just below 1 where it is more, which no threshold
        reaches; groups at zero have minus infinity.
        """
        return torch.logit(self.groups.levels().clamp(max=1 - 1e-9)) - self.logits.double()[self.logit_of]

    @torch.no_grad()
    def raise_by(self, shift: float) -> None:
        """Add to all logits; the differences between them, which are learned, stay."""
        self.logits.add_(shift)

    @torch.no_grad()
    def spare(self, is_spared: Bool[Tensor, " groups"]) -> None:
        """Let no threshold touch these groups."""
        self.is_spared.copy_(is_spared)

    @torch.no_grad()
    def settle(self) -> None:
        """Write the shrunk weights in place of those before the threshold, and switch the thresholds off.

        The network computes the same to the last bit, and what is zero stays zero.
        """
        self.groups.scale(self.factors())
        self.logits.fill_(OFF_LOGIT)

    def shrunk(self, index: int, weight: Tensor) -> Tensor:
        """Return a weight behind the threshold.

        Args:
            index: Its place among the groups' tensors.
            weight: Before the threshold.
        """
        parts = self._parts
        if parts is None:
            parts = self.groups.spread(self.factors())
            if self._is_running:
                self._parts = parts
        return weight * parts[index].to(weight.dtype)

    def begin(self, *_: Any) -> None:
        """Keep the factors from now on; called before the model runs."""
        self._is_running, self._parts = True, None

    def end(self, *_: Any) -> None:
        """Forget the factors; called after the model has run, or failed."""
        self._is_running, self._parts = False, None


class _Shrunk(nn.Module):
    """One weight's place in the thresholds."""

    def __init__(self, source: GroupThresholds, index: int) -> None:
        super().__init__()
        self._source, self._index = (source,), index  # in a tuple, so that it is no submodule

    def forward(self, weight: Tensor) -> Tensor:
        return self._source[0].shrunk(self._index, weight)


def add_group_thresholds(
    model: nn.Module,
    groups: CoupledGroups,
    *,
    per: Granularity = "component",
    initial_logit: float | None = None,
) -> GroupThresholds:
    """Put learnable thresholds before the weights of all groups.

    The thresholds become the model's submodule ``group_thresholds``, whose ``logits`` are ordinary parameters:
    make the optimizer afterwards.

    Args:
        model: Changed in place.
        groups: Made from it by `lomt.sparsity.coupled_groups`.
        per: Whether there is a logit a component, a stage (a component's layers at one resolution) or a set of
            coupled layers.
        initial_logit: First logit of all. None starts each at a thousandth of its smallest group that is not zero,
            which changes next to nothing.

    Raises:
        UnknownNameError: If there is no such granularity.
        SparsityTargetError: If there are thresholds already, or a weight is not a plain parameter.
    """
    if per not in GRANULARITIES:
        raise UnknownNameError("granularity", per, GRANULARITIES)
    for name in _SUBMODULES:
        if hasattr(model, name):
            raise SparsityTargetError(
                f"Expected the model to have no thresholds yet, but got one with `{name}`. "
                "Bake them in first with bake_thresholds(model)."
            )
    keys = [_key(own, per) for own in groups.sets]
    names = list(dict.fromkeys(keys))
    logit_of = torch.tensor([names.index(key) for key in keys])[groups.set_of]
    levels = groups.levels().cpu()
    first = [
        _smallest(levels[logit_of == index]) if initial_logit is None else initial_logit
        for index in range(len(names))
    ]
    source = GroupThresholds(groups, names, logit_of, first)
    model.add_module("group_thresholds", source)
    for index, own in enumerate(groups.tensors):
        layer, _, attribute = own.name.rpartition(".")
        parametrize.register_parametrization(
            model.get_submodule(layer), attribute, _Shrunk(source, index), unsafe=True
        )
    model.register_forward_pre_hook(source.begin)
    model.register_forward_hook(source.end, always_call=True)
    return source


def bake_thresholds(model: nn.Module) -> None:
    """Replace thresholds by the weights they give, to the last bit; the parameters stay the same objects.

    Nothing happens where there are none. Thresholds on groups depend on all weights of a group, so that this, and
    not ``remove_parametrizations`` layer by layer, must take them away.

    Args:
        model: Changed in place.
    """
    for name in _SUBMODULES:
        source = getattr(model, name, None)
        if not isinstance(source, GroupThresholds | SoftThresholds):
            continue
        if isinstance(source, GroupThresholds):
            source.begin()
            with torch.no_grad():
                source._parts = source.groups.spread(source.factors())
        for layer in list(model.modules()):
            if parametrize.is_parametrized(layer):
                _remove(layer, source)
        if isinstance(source, GroupThresholds):
            source.end()
            for hooks in (model._forward_pre_hooks, model._forward_hooks):
                for key in [k for k, hook in hooks.items() if getattr(hook, "__self__", None) is source]:
                    del hooks[key]
                    model._forward_hooks_always_called.pop(key, None)
        delattr(model, name)


def thresholds_of(model: nn.Module) -> GroupThresholds | SoftThresholds:
    """Return the thresholds that stand before a model's weights.

    Raises:
        SparsityTargetError: If there are none.
    """
    for name in _SUBMODULES:
        source = getattr(model, name, None)
        if isinstance(source, GroupThresholds | SoftThresholds):
            return source
    raise SparsityTargetError(
        "Expected the model to have thresholds, but got one without. "
        "Call add_soft_thresholds or add_group_thresholds first."
    )


def _remove(layer: nn.Module, source: nn.Module) -> None:
    parametrizations: Any = layer.parametrizations
    for attribute in list(parametrizations):
        steps = parametrizations[attribute]
        if any(getattr(step, "_source", (None,))[0] is source for step in steps):
            # Copies of a layer share the class that torch made for it, and removing would take the weight from all.
            kind = type(layer)
            layer.__class__ = type(kind.__name__, kind.__bases__, dict(kind.__dict__))
            parametrize.remove_parametrizations(layer, attribute, leave_parametrized=True)


def _key(own: GroupSet, per: Granularity) -> str:
    return {"component": own.component, "stage": own.stage, "layer": own.name}[per]


def _smallest(levels: Tensor) -> float:
    alive = levels[levels > 0]
    return starting_logit(float(alive.min()) if len(alive) else 0.0)
