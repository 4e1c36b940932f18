"""Groups of weights that must be zero together before a channel can go: every consumer's slices of the channel."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from lomt.errors import SparsityTargetError, UnknownNameError
from lomt.sparsity.prox import group_weight
from lomt.structure import CoupledChannels, Structure, TensorSlices

__all__ = [
    "CoupledGroups",
    "GroupSet",
    "GroupTensor",
    "coupled_groups",
    "position_norms",
    "shrink_factors",
]


@dataclass(frozen=True)
class GroupSet:
    """The groups of one set of coupled channels: one group a channel.

    Args:
        name: Of the coupled channels.
        component: The part of the network that computes them.
        stage: The part's name and the number of pixels at which they are computed.
        start: Number of the first of them among all groups.
        count: How many.
        is_branch_end: Whether a residual branch's last layer alone reads them, so that the whole branch is
            dead, and the block adds a constant, once all are zero.
    """

    name: str
    component: str
    stage: str
    start: int
    count: int
    is_branch_end: bool = False


@dataclass(frozen=True, eq=False)
class GroupTensor:
    """A weight whose positions along one dimension belong to groups.

    Args:
        name: Name of the parameter.
        parameter: The parameter.
        dim: The dimension.
        group_of: Number of each position's group; the number of groups where it has none.
    """

    name: str
    parameter: nn.Parameter
    dim: int
    group_of: Int[Tensor, " positions"]


class CoupledGroups:
    r"""The groups of a network, numbered through, with what all of them need at once.

    Group :math:`g` holds the entries of every consumer's weight that read channel :math:`g`, across layers.
    Weights are the parameters themselves, also where a threshold stands before them.

    Args:
        sets: The groups, set by set.
        tensors: The weights.
        set_aside: Coupled channels that have no groups, by name, with the reason.
    """

    def __init__(
        self, sets: Sequence[GroupSet], tensors: Sequence[GroupTensor], set_aside: Mapping[str, str]
    ) -> None:
        self.sets, self.tensors, self.set_aside = tuple(sets), tuple(tensors), dict(set_aside)
        self.count = sum(own.count for own in sets)
        self._index = torch.cat([own.group_of for own in tensors])
        per_position = [own.parameter.numel() // len(own.group_of) for own in tensors]
        entries = torch.tensor(per_position).repeat_interleave(
            torch.tensor([len(t.group_of) for t in tensors])
        )
        self.sizes: Int[Tensor, " groups"] = self.sums(entries)
        distinct, where = self.sizes.unique(return_inverse=True)
        roots = torch.tensor([group_weight(int(size)) for size in distinct], dtype=torch.float64)
        self.weights: Float[Tensor, " groups"] = roots[where]
        self.set_of: Int[Tensor, " groups"] = torch.arange(len(sets)).repeat_interleave(
            torch.tensor([own.count for own in sets])
        )

    @property
    def components(self) -> tuple[str, ...]:
        """The parts of the network that have groups."""
        return tuple(dict.fromkeys(own.component for own in self.sets))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.tensors[0].parameter.device

    def sums(self, values: Shaped[Tensor, " positions"]) -> Shaped[Tensor, " groups"]:
        """Sum what the positions of all tensors, one after the other, have of each group; differentiable."""
        if self._index.device != values.device:
            self._index = self._index.to(values.device)
        return values.new_zeros(self.count + 1).index_add(0, self._index, values)[:-1]

    def spread(self, values: Shaped[Tensor, " groups"], rest: float = 1.0) -> list[Shaped[Tensor, "..."]]:
        """Return for each tensor its groups' values in a shape that broadcasts against it; differentiable.

        Args:
            values: One value a group.
            rest: Value of positions without a group.
        """
        if self._index.device != values.device:
            self._index = self._index.to(values.device)
        values = torch.cat([values, values.new_full((1,), rest)]).index_select(0, self._index)
        parts = values.split([len(own.group_of) for own in self.tensors])
        return [
            part.view([-1 if dim == own.dim else 1 for dim in range(own.parameter.ndim)])
            for part, own in zip(parts, self.tensors, strict=True)
        ]

    def squares(self) -> Float[Tensor, " groups"]:
        r"""Return :math:`\lVert w_g \rVert_2^2` in float64; differentiable."""
        parts = [position_norms(own.parameter, own.dim) for own in self.tensors]
        return self.sums(torch.cat(parts).double().square())

    @torch.no_grad()
    def levels(self) -> Float[Tensor, " groups"]:
        r"""Return :math:`\lVert w_g \rVert_2 / \sqrt{n_g}`, the root mean square of each group, in float64."""
        return self.squares().sqrt() / self.weights.to(self.device)

    @torch.no_grad()
    def zeros(self) -> Bool[Tensor, " groups"]:
        """Tell which groups have no entry other than zero; exact."""
        parts = [(own.parameter != 0).movedim(own.dim, 0).flatten(1).any(dim=1) for own in self.tensors]
        return self.sums(torch.cat(parts).int()) == 0

    @torch.no_grad()
    def scale(self, factors: Float[Tensor, " groups"]) -> None:
        """Multiply every group by its factor, in place."""
        for own, part in zip(self.tensors, self.spread(factors), strict=True):
            own.parameter.mul_(part.to(own.parameter.dtype))

    def keep(self, is_alive: Bool[Tensor, " groups"]) -> dict[str, Bool[Tensor, " _"]]:
        """Return which channels stay, by name of the coupled channels, where not all do."""
        parts = is_alive.cpu().split([own.count for own in self.sets])
        return {own.name: part for own, part in zip(self.sets, parts, strict=True) if not bool(part.all())}

    def best_of_each_set(self, scores: Float[Tensor, " groups"]) -> Int[Tensor, " sets"]:
        """Return the number of the group with the highest score in every set."""
        parts = scores.split([own.count for own in self.sets])
        return torch.stack([part.argmax() + own.start for part, own in zip(parts, self.sets, strict=True)])


def coupled_groups(
    model: nn.Module,
    structure: Structure,
    *,
    component_of: Callable[[str], str] | None = None,
    components: Sequence[str] | None = None,
    is_coupled: bool = True,
) -> CoupledGroups:
    """Make one group of all that reads a channel, for every channel that can go without a trace.

    Protected channels and those that a normalisation mixes get none, nor do channels that share a position of a
    weight with others; `CoupledGroups.set_aside` says why.

    Args:
        model: The network, without thresholds.
        structure: What was traced from it.
        component_of: Tells from a parameter's name which part of the network it belongs to, as
            `TaskNetwork.component_of` does. None takes the structure's own parts.
        components: The parts whose channels get groups; all if None.
        is_coupled: False gives each consumer a group of its own, as published: such a group at zero says only
            that one layer ignores the channel.

    Raises:
        UnknownNameError: If there is no such component.
        SparsityTargetError: If no channel is left.

    References:
        Upadhyay et al., "Less is More - Towards parsimonious multi-task models using structured sparsity",
        2024, https://arxiv.org/abs/2308.12114; coupled as in Fang et al., "DepGraph: Towards Any Structural
        Pruning", 2023, https://arxiv.org/abs/2301.12900.
    """
    parts = {own.name: _component(own, structure, component_of) for own in structure.coupled}
    for name in components or ():
        if name not in parts.values():
            raise UnknownNameError("component", name, set(parts.values()))
    wanted = set(parts.values()) if components is None else set(components)
    set_aside = {own.name: reason for own in structure.coupled if (reason := _reason(own)) is not None}
    set_aside |= {
        name: f"part `{part}` is not asked for"
        for name, part in parts.items()
        if part not in wanted and name not in set_aside
    }
    chosen: list[CoupledChannels] = []
    taken: dict[tuple[str, int], Tensor] = {}
    dims: dict[str, int] = {}
    for own in structure.coupled:
        if own.name not in set_aside and not _claim(own, taken, dims):
            set_aside[own.name] = "a weight's position belongs to several channels"
        if own.name not in set_aside:
            chosen.append(own)
    if not chosen:
        told = "; ".join(f"`{name}`: {reason}" for name, reason in list(set_aside.items())[:5])
        raise SparsityTargetError(
            "Expected the model to have channels that can be removed without a trace, but got none"
            f"{f' ({told})' if told else ''}. Protect fewer layers, or choose other components."
        )
    return _numbered(model, structure, chosen, parts, set_aside, is_coupled)


def _component(own: CoupledChannels, structure: Structure, component_of: Callable[[str], str] | None) -> str:
    if component_of is None:
        return structure.component(own.name)
    first = next((part for part in own.slices if part.role == "producer"), own.slices[0])
    return component_of(first.tensor)


def _reason(own: CoupledChannels) -> str | None:
    if own.protected is not None:
        return own.protected
    if own.mixers:
        return f"mixed by {own.mixers[0]}"
    return None if own.consumers else "no layer reads it"


def _readers(own: CoupledChannels) -> list[TensorSlices]:
    return [part for part in own.slices if part.role == "consumer"]


def _claim(own: CoupledChannels, taken: dict[tuple[str, int], Tensor], dims: dict[str, int]) -> bool:
    """Take the positions that read these channels, unless others have them."""
    found = [(part, part.owner >= 0) for part in _readers(own)]
    for part, is_own in found:
        if dims.get(part.tensor, part.dim) != part.dim:
            return False
        if (part.tensor, part.dim) in taken and bool((taken[part.tensor, part.dim] & is_own).any()):
            return False
    if len({part.tensor for part, _ in found}) < len(found):
        return False
    for part, is_own in found:
        dims[part.tensor] = part.dim
        place = (part.tensor, part.dim)
        taken[place] = taken[place] | is_own if place in taken else is_own
    return True


def _numbered(
    model: nn.Module,
    structure: Structure,
    chosen: Sequence[CoupledChannels],
    parts: Mapping[str, str],
    set_aside: Mapping[str, str],
    is_coupled: bool,
) -> CoupledGroups:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    pixels = _pixels(structure, parameters)
    sets: list[GroupSet] = []
    found: dict[str, tuple[int, Tensor]] = {}
    start = 0
    for own in chosen:
        readers = _readers(own)
        first = own.producers[0] if own.producers else readers[0].layer
        stage = f"{parts[own.name]}/{pixels.get(first, 0)}"
        ends = _ends_branch(own, structure)
        for bunch in [readers] if is_coupled else [[part] for part in readers]:
            name = own.name if is_coupled else f"{own.name}>{bunch[0].layer}"
            sets.append(GroupSet(name, parts[own.name], stage, start, own.count, ends))
            for part in bunch:
                if part.tensor not in parameters:
                    raise SparsityTargetError(
                        f"Expected `{part.tensor}` to be a parameter of the model, but got none of that name. "
                        "Trace the structure from this model, and make the groups before adding thresholds."
                    )
                _, group_of = found.setdefault(part.tensor, (part.dim, torch.full_like(part.owner, -1)))
                group_of[part.owner >= 0] = part.owner[part.owner >= 0] + start
            start += own.count
    tensors = [
        GroupTensor(name, parameters[name], dim, torch.where(group_of < 0, start, group_of))
        for name, (dim, group_of) in found.items()
    ]
    return CoupledGroups(sets, tensors, set_aside)


def _pixels(structure: Structure, parameters: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the number of pixels that each layer computes."""
    kernels = {
        name.rpartition(".")[0]: parameter.shape[2:].numel() if parameter.ndim > 2 else 1
        for name, parameter in parameters.items()
        if parameter.ndim > 1
    }
    return {own.layer: own.positions // kernels.get(own.layer, 1) for own in structure.contractions}


def _ends_branch(own: CoupledChannels, structure: Structure) -> bool:
    """Say whether all that reads these channels is the last layer of a residual branch.

    Such a layer computes channels that others compute as well, because they are added up; the first of those
    starts the sum and is no branch.
    """
    layers = {part.layer for part in _readers(own)}
    streams = [s for s in structure.coupled if len(s.producers) > 1 and layers & set(s.producers)]
    return bool(streams) and all(
        any(layer in stream.producers[1:] for stream in streams)
        and not any(layer == stream.producers[0] for stream in streams)
        for layer in layers
    )


def position_norms(weight: Float[Tensor, "..."], dim: int) -> Float[Tensor, " positions"]:
    """Return the Euclidean norm at every position along one dimension, in float32 at least; differentiable."""
    values = weight if weight.dtype in (torch.float32, torch.float64) else weight.float()
    others = [other for other in range(weight.ndim) if other != dim]
    norms: Tensor = torch.linalg.vector_norm(values, dim=others)
    return norms


def shrink_factors(
    squares: Float[Tensor, " groups"], tau: Float[Tensor, " groups"]
) -> Float[Tensor, " groups"]:
    r"""Return :math:`\max(0, 1 - \tau_g / \lVert w_g \rVert_2)`, what soft-thresholding multiplies each group by.

    Differentiable in both; a group has no gradient where its factor is zero.

    Args:
        squares: :math:`\lVert w_g \rVert_2^2`.
        tau: Thresholds :math:`\tau_g \ge 0`.
    """
    is_alive = squares > tau.square()
    norms = torch.where(is_alive, squares, 1).sqrt()
    return torch.where(is_alive, 1 - tau / norms, 0)
