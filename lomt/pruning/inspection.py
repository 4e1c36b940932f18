"""What can be pruned in a model, by part: the data behind `lomt inspect`, and the parts of a plan."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from lomt.pruning.plan import ComponentChange
from lomt.structure import CoupledChannels, Structure

__all__ = ["Inspection", "Part", "component_changes", "inspect_structure"]

SHARED, UNUSED = "shared", "unused"


@dataclass(frozen=True)
class Part:
    """What serves several outputs, one output, or none.

    Args:
        name: ``"shared"``, the name of an output, or ``"unused"``.
        params: Number of parameters.
        share: Fraction of all parameters, 0 to 1.
        macs: Multiply-accumulates for the example inputs.
    """

    name: str
    params: int
    share: float
    macs: int


@dataclass(frozen=True)
class Inspection:
    """What a model consists of for pruning.

    Args:
        parts: Shared, then every output, then unused; those without parameters are left out, outputs are not.
        channels: Name, channels, part, producers, consumers, whether exact, mixers and the reason of protection,
            of all coupled channels.
        unused_layers: Layers with weights on which no output depends.
    """

    parts: tuple[Part, ...]
    channels: tuple[dict[str, Any], ...]
    unused_layers: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Describe it in types that JSON knows."""
        return {
            "parts": [asdict(part) for part in self.parts],
            "coupled_channels": list(self.channels),
            "unused_layers": list(self.unused_layers),
        }


def inspect_structure(structure: Structure, model: nn.Module) -> Inspection:
    """Gather what can be pruned.

    Args:
        structure: What was traced.
        model: The model it was traced from.
    """
    params = _params_by_part(structure, model)
    macs = _macs_by_part(structure, structure.layer_macs())
    total = sum(params.values())
    parts = tuple(
        Part(name, params[name], params[name] / total if total else 0.0, macs[name])
        for name in params
        if params[name] or name in structure.outputs
    )
    return Inspection(
        parts, tuple(_channels(structure, own) for own in structure.coupled), structure.unused_layers
    )


def component_changes(
    structure: Structure,
    before: nn.Module,
    after: nn.Module,
    kept: Mapping[str, int],
    macs: Mapping[str, int],
) -> tuple[ComponentChange, ...]:
    """Say what pruning does to every part.

    Args:
        structure: What was traced from ``before``.
        before: The model.
        after: The pruned one; parameters that are new in it belong to the part of the layers beside them.
        kept: Channels left, by name of the coupled channels that lose some.
        macs: Multiply-accumulates left, by layer.

    Returns:
        Shared, every output, unused; parts that had and have nothing are left out.
    """
    channels = {name: [0, 0] for name in _names(structure)}
    for own in structure.coupled:
        if own.protected is None:
            pair = channels[structure.component(own.name)]
            pair[0] += own.count
            pair[1] += kept.get(own.name, own.count)
    params = _params_by_part(structure, before), _params_by_part(structure, after)
    costs = _macs_by_part(structure, structure.layer_macs()), _macs_by_part(structure, macs)
    changes = [
        ComponentChange(
            name,
            (channels[name][0], channels[name][1]),
            (params[0][name], params[1][name]),
            (costs[0][name], costs[1][name]),
        )
        for name in channels
    ]
    return tuple(change for change in changes if any((*change.channels, *change.params, *change.macs)))


def _names(structure: Structure) -> tuple[str, ...]:
    return tuple(dict.fromkeys((SHARED, *structure.outputs, UNUSED)))


def _params_by_part(structure: Structure, model: nn.Module) -> dict[str, int]:
    found = dict.fromkeys(_names(structure), 0)
    for name, parameter in model.named_parameters():
        found[_part(_served(structure, name))] += parameter.numel()
    return found


def _macs_by_part(structure: Structure, macs: Mapping[str, int]) -> dict[str, int]:
    found = dict.fromkeys(_names(structure), 0)
    for layer, count in macs.items():
        found[_part(_served(structure, layer))] += count
    return found


def _part(outputs: tuple[str, ...]) -> str:
    return SHARED if len(outputs) > 1 else outputs[0] if outputs else UNUSED


def _served(structure: Structure, name: str) -> tuple[str, ...]:
    """Outputs that a parameter or layer serves: its own, or those of what lies in the nearest module around it."""
    if name in structure.serves:
        return structure.serves[name]
    place = name
    while place:
        inside = [outputs for key, outputs in structure.serves.items() if key.startswith(f"{place}.")]
        if inside:
            return tuple(dict.fromkeys(output for outputs in inside for output in outputs))
        place = place.rpartition(".")[0]
    return tuple(structure.outputs)


def _channels(structure: Structure, own: CoupledChannels) -> dict[str, Any]:
    return {
        "name": own.name,
        "count": own.count,
        "part": structure.component(own.name),
        "producers": list(own.producers),
        "consumers": list(own.consumers),
        "is_exact": own.is_exact,
        "mixers": list(own.mixers),
        "protected": own.protected,
    }
