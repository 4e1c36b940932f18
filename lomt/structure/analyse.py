"""From a recorded run to the structure of a network."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from torch import Tensor, nn

from lomt.errors import UnknownNameError
from lomt.structure.coupled_channels import CoupledChannels, Role, Structure, TensorSlices
from lomt.structure.free_sizes import can_free
from lomt.structure.model_copy import copy_model
from lomt.structure.recording import SPATIAL, Recording
from lomt.structure.spans import Span, owners
from lomt.structure.trace import Inputs, named_tensors, record

__all__ = ["names_layer", "trace_structure"]


def trace_structure(model: nn.Module, example_inputs: Inputs, *, protect: Sequence[str] = ()) -> Structure:
    """Find which channels of a network hang together.

    A copy of the network runs once on the example inputs, in eval mode and without gradients. What it computes is
    followed operation by operation; no symbolic tracing is involved, so any Python in ``forward`` will do.

    Args:
        model: The network; left as it is.
        example_inputs: One tensor, several, or several by name of ``forward``'s arguments.
        protect: Layers, by dotted path, whose own channels stay: a name, a name of something that contains
            them, or a pattern with ``*``.

    Returns:
        The structure. What it says of the number of MACs holds for inputs of this size.

    Raises:
        TraceError: The model does not run, or returns no tensor.
        UnknownNameError: A protected name matches no layer.
    """
    model = copy_model(model, share_parameters=True)  # whatever it counts or caches while it runs
    model.train()
    model.eval()  # both: models that cache tensors in eval mode start afresh
    recording, outputs = record(model, example_inputs)
    reach = {name: recording.value(tensor).memory.reach for name, tensor in outputs.items()}
    structure = _Analysis(model, recording, reach, protect).structure()
    return replace(structure, example_outputs=outputs)


class _Analysis:
    def __init__(
        self, model: nn.Module, recording: Recording, reach: Mapping[str, int], protect: Sequence[str]
    ) -> None:
        self._model, self._recording, self._reach, self._protect = model, recording, reach, protect
        self._tensors = named_tensors(model)
        self._parameters = dict(model.named_parameters())
        self._readers = {origin for group in recording.readers for origin in group}
        self._writers = {origin for group in recording.writers for origin in group}
        self._blocks = {
            (origin, leaf.root)
            for group, span in recording.scales
            for origin in group
            for leaf in span.leaves()
        }

    def structure(self) -> Structure:
        layers = [path for path, _ in self._model.named_modules()]
        _check_protected(self._protect, layers)
        found = self._leaf_slices()
        order = {path: place for place, path in enumerate(self._recording.called)}
        coupled, leaves = [], {}
        names: set[str] = set()
        for leaf, slices in sorted(found.items(), key=lambda item: _first_call(item[1], order)):
            own = self._coupled(leaf, slices, names)
            names.add(own.name)
            leaves[leaf] = own.name
            coupled.append(own)
        return Structure(
            coupled=tuple(coupled),
            serves={name: self._served(name) for name in self._parameters},
            outputs=tuple(self._reach),
            unused_layers=self._unused(),
            parameters={name: tuple(self._recording.weights[name].spans) for name in self._parameters},
            contractions=self._recording.contractions,
            ties=self._recording.ties,
            leaves=leaves,
            written=tuple(
                own
                for own in self._recording.written
                if own.channels and can_free(self._recording.modules[own.module], own)
            ),
        )

    def _leaf_slices(self) -> dict[Span, list[TensorSlices]]:
        found: dict[Span, list[TensorSlices]] = {}
        seen: set[int] = set()
        for name, tensor in self._tensors.items():
            if id(tensor) in seen or name not in self._recording.weights:
                continue
            seen.add(id(tensor))
            for dim, span in enumerate(self._recording.weights[name].spans):
                for leaf, owner in owners(span).items():
                    if leaf.size > 1 and leaf.fixed != SPATIAL:
                        role = self._role(name, dim, leaf, tensor)
                        found.setdefault(leaf, []).append(TensorSlices(name, dim, owner, role))
        return found

    def _role(self, name: str, dim: int, leaf: Span, tensor: Tensor) -> Role:
        if tensor.ndim < 2 or ((name, dim), leaf) in self._blocks:
            return "scale"
        if (name, dim) in self._readers:
            return "consumer"
        return "producer" if (name, dim) in self._writers else "scale"

    def _coupled(self, leaf: Span, slices: list[TensorSlices], names: set[str]) -> CoupledChannels:
        first = next((own for own in slices if own.role == "producer"), slices[0])
        name = first.layer or first.tensor
        if name in names:
            suffixes = [tie.attribute for tie in self._recording.ties if tie.span.root is leaf]
            tries = [*suffixes, *(str(number) for number in range(2, len(names) + 3))]
            name = next(full for suffix in tries if (full := f"{name}/{suffix}") not in names)
        return CoupledChannels(name, leaf.size, tuple(slices), self._reason(leaf, slices), leaf.mixers)

    def _reason(self, leaf: Span, slices: Iterable[TensorSlices]) -> str | None:
        for own in slices:
            parameter = self._parameters.get(own.tensor)
            if own.role != "consumer":
                pattern = next((name for name in self._protect if names_layer(name, own.layer)), None)
                if pattern is not None:
                    return f"protected as `{pattern}`"
            if parameter is not None and not parameter.requires_grad:
                return f"`{own.tensor}` is frozen"
        if leaf.fixed is not None:
            return leaf.fixed
        if not any(self._computes(own) for own in slices):
            return "no layer computes it"
        return None

    def _computes(self, own: TensorSlices) -> bool:
        """Whether the slices compute the channel; those of a weight used both ways are consumers and do."""
        is_writer = (own.tensor, own.dim) in self._writers
        return own.role == "producer" or (own.role == "consumer" and is_writer)

    def _served(self, name: str) -> tuple[str, ...]:
        value = self._recording.weights[name].memory
        bit = 1 << self._recording.names.index(name)
        assert value.reach & bit
        return tuple(output for output, reach in self._reach.items() if reach & bit)

    def _unused(self) -> tuple[str, ...]:
        unused = []
        for path, module in self._model.named_modules():
            own = [f"{path}.{name}" if path else name for name, _ in module.named_parameters(recurse=False)]
            if own and not any(self._served(name) for name in own if name in self._parameters):
                unused.append(path)
        return tuple(unused)


def _check_protected(protect: Sequence[str], layers: Sequence[str]) -> None:
    for name in protect:
        if not any(names_layer(name, layer) for layer in layers):
            raise UnknownNameError("layer to protect", name, filter(None, layers))


def names_layer(pattern: str, layer: str) -> bool:
    """Say whether a name, a name of something that contains it, or a pattern with ``*`` means a layer."""
    return layer == pattern or layer.startswith(f"{pattern}.") or fnmatchcase(layer, pattern)


def _first_call(slices: Iterable[TensorSlices], order: Mapping[str, int]) -> int:
    own = list(slices)
    makers = [part for part in own if part.role == "producer"] or own
    return min(order.get(part.layer, len(order)) for part in makers)
