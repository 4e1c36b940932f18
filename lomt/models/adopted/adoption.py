"""A model that somebody else wrote, seen as a backbone and decoders: everything that cutting it needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor, fx, nn

from lomt.errors import UnknownNameError, UnsupportedLayerError
from lomt.models.adopted.answers import AdoptionError, find_answers
from lomt.models.adopted.features import Feature, find_features, list_adopted_layers
from lomt.models.adopted.known_trace import KnownTrace, trace_known
from lomt.models.adopted.split import Split, decoder_modules, find_backbone, inputs, split_model
from lomt.models.graph import NotTraceableError, sources
from lomt.models.graph_module import GraphModule
from lomt.models.layers import Layer

__all__ = ["Adoption", "adopt"]


@dataclass(frozen=True)
class Mode:
    """The model in train or eval mode.

    Args:
        trace: Its graph.
        split: Its parts.
        features: Where decoders can read, by name, in forward order.
    """

    trace: KnownTrace
    split: Split
    features: Mapping[str, Feature]

    def name_of(self, node: fx.Node) -> str:
        """Name features by their node; the model's inputs by their argument."""
        if node.op == "placeholder":
            return str(node.target)
        return next(own.name for own in self.features.values() if own.node is node)


@dataclass(frozen=True)
class Adoption:
    """What is known of an adopted model.

    Args:
        model: The model; left as it is.
        modes: By mode, True for training.
        backbone: Modules of the backbone.
        decoders: The outermost modules that only one task runs, by task.
        inputs: Names of the model's inputs.
    """

    model: nn.Module
    modes: Mapping[bool, Mode] = field(repr=False)
    backbone: tuple[str, ...]
    decoders: Mapping[str, tuple[str, ...]]
    inputs: tuple[str, ...]

    @property
    def features(self) -> Mapping[str, Feature]:
        """Where decoders can read, by name, in forward order."""
        return self.modes[False].features

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, in order."""
        return tuple(self.modes[False].split.answers)

    @property
    def closed(self) -> Mapping[str, str]:
        """Why modules could not be looked into, by name."""
        return {**self.modes[True].trace.closed, **self.modes[False].trace.closed}

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The features with their costs, and the convolutions between them."""
        mode = self.modes[False]
        return tuple(list_adopted_layers(self.model, mode.trace, mode.split))

    def read(self, task: str) -> tuple[str, ...]:
        """Name what a task's decoder reads in the model as it is, inputs of the model included, in forward order."""
        mode = self.modes[False]
        return tuple(mode.name_of(node) for node in mode.split.read[task])

    def layers_read(self, task: str) -> tuple[str, ...]:
        """Name the layers that a task's decoder reads in the model as it is, in forward order."""
        return tuple(name for name in self.read(task) if name not in self.inputs)

    def deepest(self, task: str, chosen: Mapping[str, str] | None = None) -> str:
        """Name the deepest layer that a task's decoder reads.

        Args:
            task: The task.
            chosen: What it reads in place of some of what it was made for.

        Raises:
            UnknownNameError: There is no such layer.
        """
        chosen = chosen or {}
        self._check_chosen(task, chosen)
        order = [*self.inputs, *self.features]
        return max((chosen.get(name, name) for name in self.read(task)), key=order.index)

    def check_predictions(self, wanted: Mapping[str, tuple[int, bool]]) -> None:
        """Make sure that predictions have the form that tasks ask for.

        Args:
            wanted: By task, the number of channels and whether there is a prediction for every pixel.

        Raises:
            AdoptionError: One has not.
        """
        mode = self.modes[False]
        for task, (channels, is_dense) in wanted.items():
            shape = tuple(mode.trace.values[mode.split.answers[task]].shape)
            if len(shape) != (4 if is_dense else 2) or shape[1] != channels:
                form = f"(batch, {channels}, height, width)" if is_dense else f"(batch, {channels})"
                raise AdoptionError(
                    f"Expected the model's prediction of task `{task}` to have the shape {form}, because its kind and "
                    f"its target say so, but got (batch, {', '.join(map(str, shape[1:]))}). Name another place under "
                    "`outputs`, or let the factory build the model for this target."
                )

    def instead(self, task: str, layer: str, chosen: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return what a task reads when nothing deeper than a layer is left.

        What lies at the layer or before it is read where it was; each deeper one is replaced by the layer.

        Args:
            task: The task.
            layer: The layer.
            chosen: What to read in place of some of what the decoder was made for, whatever the rule says.

        Returns:
            By name of what the decoder was made for, in forward order.

        Raises:
            UnknownNameError: There is no such layer, or the decoder was not made for what is chosen.
        """
        chosen = chosen or {}
        if layer not in self.features:
            raise UnknownNameError("layer", layer, self.features)
        self._check_chosen(task, chosen)
        return {
            name: chosen.get(name, layer if name not in self.inputs and self.is_deeper(name, layer) else name)
            for name in self.read(task)
        }

    def is_deeper(self, name: str, layer: str) -> bool:
        """Whether the features of one layer are computed after those of another."""
        order = self.modes[False].trace.order
        return order[self.features[name].node] > order[self.features[layer].node]

    def backbone_part(self, wanted: Sequence[str], memo: dict[object, object]) -> GraphModule:
        """Make the part of the backbone that computes some layers: inputs in, a dict of features by name out."""
        read = {name for task in self.tasks for name in self.read(task)}
        graphs = {}
        for training, mode in self.modes.items():
            nodes = {name: mode.features[name].node for name in wanted}
            copied = [n for n in wanted if nodes[n] in mode.trace.overwritten and n not in read]
            graphs[training] = _backbone_graph(mode, nodes, copied)
        return self._part(graphs, memo)

    def decoder_part(self, task: str, memo: dict[object, object]) -> GraphModule:
        """Make a task's decoder: what it reads in, in forward order, its prediction out."""
        return self._part(
            {training: _decoder_graph(mode, task) for training, mode in self.modes.items()}, memo
        )

    def _check_chosen(self, task: str, chosen: Mapping[str, str]) -> None:
        own = self.layers_read(task)
        for made_for, layer in chosen.items():
            if made_for not in own:
                raise UnknownNameError(f"input of decoder `{task}`", made_for, own)
            if layer not in self.features:
                raise UnknownNameError(f"layer of task `{task}`", layer, self.features)

    def _part(self, graphs: Mapping[bool, fx.Graph], memo: dict[object, object]) -> GraphModule:
        part = GraphModule()
        constants = {
            name: value for mode in self.modes.values() for name, value in mode.trace.constants.items()
        }
        part.take_over(self.model, graphs, constants, memo)
        return part


def adopt(
    model: nn.Module,
    examples: Sequence[Tensor],
    *,
    outputs: Mapping[str, str] | None = None,
    tasks: Sequence[str] = (),
    lone: str = "prediction",
    backbone: Sequence[str] = (),
    decoders: Mapping[str, Sequence[str]] | None = None,
) -> Adoption:
    """Find backbone, decoders and candidate layers of a model.

    Args:
        model: Left as it is.
        examples: Its positional inputs; only shapes and types matter.
        outputs: By task, where its prediction is in what the model returns, such as ``"0"`` or ``"heads.depth"``.
        tasks: The tasks, in order; by default all that ``outputs`` or the model's dictionary name.
        lone: The task of a model that returns one tensor.
        backbone: Modules of the backbone; by default what two tasks or more share.
        decoders: Modules of the tasks' decoders, to be checked.

    Raises:
        UnsupportedLayerError: The model's ``forward`` cannot be followed; the reason is named.
        UnknownNameError: The model has no such module.
        AdoptionError: Outputs do not match the tasks, or the parts do not fit.
    """
    examples = [own.new_zeros((2, *own.shape[1:])) for own in examples]
    modes: dict[bool, Mode] = {}
    answers: dict[str, fx.Node] = {}
    for training in (False, True):
        try:
            trace = trace_known(model, examples, training=training)
        except NotTraceableError as reason:
            raise UnsupportedLayerError(
                f"Expected a model whose forward can be followed, but {type(model).__name__} cannot be cut: {reason}. "
                "It can be pruned as it is with `lomt prune`."
            ) from reason
        (output,) = (node.args[0] for node in trace.graph.nodes if node.op == "output")
        answers = find_answers(output, trace.values, outputs or {}, list(tasks), lone)
        backbone = tuple(backbone) or find_backbone(model, trace, answers)
        split = split_model(model, trace, answers, backbone, decoders or {})
        features = {own.name: own for own in find_features(model, trace, split)}
        modes[training] = Mode(trace, split, features)
    _check_modes(modes)
    mode = modes[False]
    return Adoption(
        model,
        modes,
        tuple(backbone),
        decoder_modules(mode.split, mode.trace, model),
        tuple(str(node.target) for node in inputs(mode.trace)),
    )


def _check_modes(modes: Mapping[bool, Mode]) -> None:
    read = [
        {task: [mode.name_of(node) for node in nodes] for task, nodes in mode.split.read.items()}
        for mode in modes.values()
    ]
    for task, names in read[0].items():
        if read[1][task] != names:
            raise AdoptionError(
                f"Expected decoder `{task}` to read the same layers in train and in eval mode, but it reads "
                f"{', '.join(read[1][task])} and {', '.join(names)}."
            )


def _backbone_graph(mode: Mode, wanted: Mapping[str, fx.Node], copied: Sequence[str]) -> fx.Graph:
    needed = set[fx.Node]().union(*(sources(node) for node in wanted.values()))
    graph, copies, features = fx.Graph(), dict[fx.Node, fx.Node](), dict[str, fx.Node]()
    given = set(inputs(mode.trace))
    for node in mode.trace.graph.nodes:
        if node not in needed and node not in given:
            continue
        copies[node] = _copy(graph, node, copies)
        for name in (name for name, source in wanted.items() if source is node):
            features[name] = graph.call_method("clone", (copies[node],)) if name in copied else copies[node]
    graph.output({name: features[name] for name in wanted})
    return graph


def _decoder_graph(mode: Mode, task: str) -> fx.Graph:
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for number, node in enumerate(mode.split.read[task]):
        copies[node] = graph.placeholder(f"features_{number}")
    for node in mode.trace.graph.nodes:
        if node in mode.split.needed[task]:
            copies[node] = _copy(graph, node, copies)
    graph.output(copies[mode.split.answers[task]])
    return graph


def _copy(graph: fx.Graph, node: fx.Node, copies: Mapping[fx.Node, fx.Node]) -> fx.Node:
    if node.op == "placeholder":
        return graph.placeholder(str(node.target))
    return graph.node_copy(node, lambda source: copies[source])
