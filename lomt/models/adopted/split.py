"""Where a model parts: what all tasks share, what is one task's own, and which features pass from one to the other."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, fx, nn

from lomt.errors import UnknownNameError
from lomt.models.adopted.answers import AdoptionError
from lomt.models.adopted.known_trace import KnownTrace
from lomt.models.graph import sources

__all__ = ["Split", "decoder_modules", "find_backbone", "inputs", "split_model", "weights_of"]

Weights = Mapping[fx.Node, frozenset[int]]


@dataclass(frozen=True)
class Split:
    """A model cut into a backbone and a decoder a task.

    Args:
        backbone: Modules of the backbone, by dotted name.
        shared: Nodes of the backbone.
        answers: The node of each task's prediction.
        needed: Nodes of each task's decoder: those between the backbone and its prediction.
        read: Features of the backbone, and inputs of the model, that each task's decoder reads, in forward order.
    """

    backbone: tuple[str, ...]
    shared: frozenset[fx.Node]
    answers: Mapping[str, fx.Node]
    needed: Mapping[str, frozenset[fx.Node]]
    read: Mapping[str, tuple[fx.Node, ...]]


def find_backbone(model: nn.Module, trace: KnownTrace, answers: Mapping[str, fx.Node]) -> tuple[str, ...]:
    """Propose the modules that make up the backbone: the outermost ones that hold layers of two tasks or more.

    A module in which a task's last layer lies is looked into: its parts may be shared, the whole is not.

    Raises:
        AdoptionError: There is one task only, or no two tasks share a layer.
    """
    if len(answers) < 2:
        raise AdoptionError(
            f"Expected two tasks or more, because what they share is the backbone, but got {', '.join(answers)}. "
            "Name the backbone, for example `backbone: encoder`."
        )
    weights = weights_of(model, trace)
    uses = _uses(trace, answers)
    shared = [node for node in weights if weights[node] and len(uses[node]) > 1]
    if not shared:
        raise AdoptionError(
            f"Expected {' and '.join(answers)} to share layers, but no two of them do. A backbone is what several "
            "tasks read; single networks can be pruned with `lomt prune`."
        )
    last = {_last_layer(node, weights) for node in answers.values()}
    # A parameter of the model itself is of no module; what reads it is.
    places = [place for node in shared if (place := _module_of(node, trace))]
    final = [_module_of(node, trace) for node in last if node is not None and len(uses[node]) < 2]
    found: list[str] = []
    for place in places:
        path = _outermost(place, final)
        if not any(_is_inside(path, known) for known in found):
            found = [known for known in found if not _is_inside(known, path)] + [path]
    return tuple(found)


def split_model(
    model: nn.Module,
    trace: KnownTrace,
    answers: Mapping[str, fx.Node],
    backbone: Sequence[str],
    decoders: Mapping[str, Sequence[str]],
) -> Split:
    """Cut a traced model.

    Args:
        model: The model.
        trace: Its graph.
        answers: From :func:`lomt.models.adopted.answers.find_answers`.
        backbone: Modules of the backbone.
        decoders: Modules of each task's decoder, where the user named them; they are checked.

    Raises:
        UnknownNameError: The model has no such module.
        AdoptionError: Tasks share layers outside the backbone, or a decoder reads layers of its own nowhere named.
    """
    _check_paths(model, backbone, decoders)
    inside = [node for node, place in trace.places.items() if _belongs(node, place, backbone)]
    if not inside:
        raise AdoptionError(
            f"Expected the backbone `{', '.join(backbone)}` to be run by the model, but its forward does not call it "
            "under this name."
        )
    shared = frozenset(set().union(*(sources(node) for node in inside)))
    weights, uses = weights_of(model, trace), _uses(trace, answers)
    for task, answer in answers.items():
        if answer in shared:
            raise AdoptionError(
                f"Expected task `{task}` to have layers behind the backbone `{', '.join(backbone)}`, but its "
                "prediction is made inside it. Name a smaller part as the backbone."
            )
    outside = [node for node in trace.graph.nodes if weights.get(node) and node not in shared]
    _check_single_use(trace, outside, uses, backbone)
    owned = {task: [node for node in outside if task in uses[node]] for task in answers}
    _check_decoders(trace, owned, backbone, decoders)
    needed, read = {}, {}
    for task, answer in answers.items():
        needed[task], read[task] = _decoder(answer, shared, trace)
        if not any(node.op != "placeholder" for node in read[task]):
            raise AdoptionError(
                f"Expected task `{task}` to read the backbone `{', '.join(backbone)}`, but it reads nothing of it."
            )
    return Split(tuple(backbone), shared, answers, needed, read)


def weights_of(model: nn.Module, trace: KnownTrace) -> dict[fx.Node, frozenset[int]]:
    """Return the identities of the parameters that each node uses, in the order they run."""
    found: dict[fx.Node, frozenset[int]] = {}
    for node in trace.graph.nodes:
        target = str(node.target)
        if node.op == "call_module":
            found[node] = frozenset(id(own) for own in model.get_submodule(target).parameters())
        elif node.op == "get_attr":
            owner, _, name = target.rpartition(".")
            value = model.get_submodule(owner)._parameters.get(name)
            found[node] = frozenset() if value is None else frozenset({id(value)})
    return found


def _uses(trace: KnownTrace, answers: Mapping[str, fx.Node]) -> dict[fx.Node, frozenset[str]]:
    """Return the tasks whose predictions each node is needed for."""
    found: dict[fx.Node, set[str]] = {node: set() for node in trace.graph.nodes}
    for task, answer in answers.items():
        for node in sources(answer):
            found[node].add(task)
    return {node: frozenset(tasks) for node, tasks in found.items()}


def _last_layer(answer: fx.Node, weights: Weights) -> fx.Node | None:
    waiting, seen = [answer], set[fx.Node]()
    while waiting:
        node = waiting.pop(0)
        if weights.get(node):
            return node
        waiting += [source for source in node.all_input_nodes if source not in seen]
        seen.update(node.all_input_nodes)
    return None


def _module_of(node: fx.Node, trace: KnownTrace) -> str:
    if node.op == "get_attr":
        return str(node.target).rpartition(".")[0]
    return str(node.target) if node.op == "call_module" else trace.places[node]


def _outermost(place: str, others: Sequence[str]) -> str:
    """Return the outermost module around a place that holds none of some others."""
    parts = place.split(".")
    for length in range(1, len(parts)):
        path = ".".join(parts[:length])
        if not any(_is_inside(own, path) for own in others):
            return path
    return place


def _is_inside(path: str, outer: str) -> bool:
    return f"{path}.".startswith(f"{outer}.")


def _belongs(node: fx.Node, place: str, paths: Iterable[str]) -> bool:
    names = [place, str(node.target)] if node.op in ("call_module", "get_attr") else [place]
    return any(_is_inside(name, path) for name in names for path in paths)


def _decoder(
    answer: fx.Node, shared: frozenset[fx.Node], trace: KnownTrace
) -> tuple[frozenset[fx.Node], tuple[fx.Node, ...]]:
    """Return a decoder's nodes and what it reads; numbers, such as sizes, are computed again from the tensor."""
    needed, read = set[fx.Node](), set[fx.Node]()
    waiting = [answer]
    while waiting:
        node = waiting.pop()
        if node in needed or node in read:
            continue
        is_feature = isinstance(trace.values.get(node), Tensor) and node in shared and not _is_constant(node)
        if is_feature or node.op == "placeholder":
            read.add(node)
        else:
            needed.add(node)
            waiting.extend(node.all_input_nodes)
    return frozenset(needed), tuple(sorted(read, key=trace.order.__getitem__))


def _is_constant(node: fx.Node) -> bool:
    return (
        node.op == "get_attr"
        and "." not in str(node.target)
        and str(node.target).startswith("_tensor_constant")
    )


def _check_paths(model: nn.Module, backbone: Sequence[str], decoders: Mapping[str, Sequence[str]]) -> None:
    known = [name for name, _ in model.named_modules() if name]
    for path in backbone:
        if path not in known:
            raise UnknownNameError("module of `backbone`", path, known)
    for number, one in enumerate(backbone):
        for other in [*backbone[:number], *backbone[number + 1 :]]:
            if _is_inside(one, other):
                part = "stands there twice" if one == other else f"is part of `{other}`"
                raise AdoptionError(
                    f"Expected every module of `backbone` to be named once, but `{one}` {part}."
                )
    for task, paths in decoders.items():
        for path in paths:
            if path not in known:
                raise UnknownNameError(f"module of decoder `{task}`", path, known)
            if any(_is_inside(path, own) for own in backbone):
                raise AdoptionError(
                    f"Expected decoder `{task}` to lie outside the backbone, but `{path}` is part of "
                    f"`{', '.join(backbone)}`."
                )


def _check_single_use(
    trace: KnownTrace,
    outside: Iterable[fx.Node],
    uses: Mapping[fx.Node, frozenset[str]],
    backbone: Sequence[str],
) -> None:
    both = [node for node in outside if len(uses[node]) > 1]
    if both:
        names = list(dict.fromkeys(_module_of(node, trace).split(".")[0] for node in both))
        tasks = " and ".join(sorted(set().union(*(uses[node] for node in both))))
        more = ", ".join([*backbone, *names])
        raise AdoptionError(
            f"Expected tasks to share layers of the backbone `{', '.join(backbone)}` only, but {tasks} share "
            f"`{_module_of(both[0], trace)}` as well. Name it too, as in `backbone: [{more}]`, or leave `backbone` out."
        )


def _check_decoders(
    trace: KnownTrace,
    owned: Mapping[str, Sequence[fx.Node]],
    backbone: Sequence[str],
    decoders: Mapping[str, Sequence[str]],
) -> None:
    for task, paths in decoders.items():
        if task not in owned:
            raise UnknownNameError("task of `decoders`", task, owned)
        strange = [_module_of(node, trace) for node in owned[task]]
        strange = [name for name in strange if not any(_is_inside(name, path) for path in paths)]
        if strange:
            raise AdoptionError(
                f"Expected task `{task}` to need only its decoder `{', '.join(paths)}` and the backbone "
                f"`{', '.join(backbone)}`, but it also runs `{strange[0]}`. Name it under `backbone` or "
                f"`decoders.{task}`."
            )


def decoder_modules(split: Split, trace: KnownTrace, model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Name the outermost modules that only one task's decoder runs, by task."""
    weights = weights_of(model, trace)
    owned = {
        task: [n for n in trace.graph.nodes if n in own and weights.get(n)]
        for task, own in split.needed.items()
    }
    found = {}
    for task, nodes in owned.items():
        others = [_module_of(n, trace) for other, own in owned.items() if other != task for n in own]
        strange = [*others, *split.backbone]
        found[task] = tuple(dict.fromkeys(_outermost(_module_of(node, trace), strange) for node in nodes))
    return found


def inputs(trace: KnownTrace) -> Iterator[fx.Node]:
    """The model's inputs that carry tensors."""
    return (n for n in trace.graph.nodes if n.op == "placeholder" and isinstance(trace.values.get(n), Tensor))
