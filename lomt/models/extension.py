"""A network with one more task, which leaves those that it has as they are."""

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lomt.errors import UnknownNameError, UnsupportedLayerError
from lomt.models.backbone import BackboneSpec, create_backbone
from lomt.models.candidates import feature_graph
from lomt.models.decoders import DecoderSpec
from lomt.models.multitask import ModelSpec, MultiTaskModel
from lomt.models.task_paths import AdaptableLayer, adaptable_layers, computed_layers, own_name
from lomt.models.truncate import load_shared

__all__ = ["NewTask", "PathChoice", "choose_path", "extend", "new_task_network"]


@dataclasses.dataclass(frozen=True)
class NewTask:
    """A task that a network is to learn as well.

    Args:
        name: Not one of the network's.
        branch_point: Layer that its decoder reads.
        decoder: Its decoder.
        out_channels: Channels of its predictions.
        is_dense: Whether it has a prediction for every pixel.
    """

    name: str
    branch_point: str
    decoder: DecoderSpec
    out_channels: int
    is_dense: bool


@dataclasses.dataclass(frozen=True)
class PathChoice:
    """Where a new task can read a network, and what it may change up to there.

    Args:
        branch_point: The layer that it reads.
        layers: Convolutions and linear layers up to the layer, in forward order.
        fixed: Other modules with weights up to there, which no task can have for its own.
    """

    branch_point: str
    layers: tuple[AdaptableLayer, ...]
    fixed: tuple[str, ...]


def choose_path(spec: ModelSpec, branch_point: str | None) -> PathChoice:
    """Find the layers that a new task may change.

    Args:
        spec: Of a network whose backbone torch.fx has cut.
        branch_point: Layer that the task reads; None for the deepest one that a task of the network reads.

    Raises:
        UnknownNameError: The network's backbone has no such layer.
        UnsupportedLayerError: There is no layer to change.
    """
    graph = feature_graph(_backbone(spec.backbone))
    points = set(spec.branch_points.values())
    known = computed_layers(graph, points)
    chosen = branch_point or [name for name in known if name in points][-1]
    if chosen not in known:
        raise UnknownNameError("branch point", chosen, known)
    layers, fixed = adaptable_layers(graph, chosen)
    if not layers:
        raise UnsupportedLayerError(
            f"Expected a convolution or linear layer that a new task could change up to `{chosen}`, but there is none. "
            "Choose a deeper branch point."
        )
    return PathChoice(chosen, layers, fixed)


def new_task_network(network: MultiTaskModel, task: NewTask) -> MultiTaskModel:
    """Build the network of a new task alone: the backbone as far as it reads it, and a random decoder.

    Args:
        network: Gives the backbone's weights; left as it was.
        task: Which task.
    """
    spec = _alone(network.spec, task)
    model = spec.build()
    load_shared(model.backbone, network.backbone.state_dict())
    return model


def extend(
    network: MultiTaskModel,
    task: NewTask,
    decoder: nn.Module,
    weights: Mapping[str, Tensor],
    layers: tuple[str, ...],
) -> MultiTaskModel:
    """Add a trained task to a network; what the others compute stays the same, bit for bit.

    Args:
        network: Left as it was.
        task: Which task.
        decoder: Its trained decoder.
        weights: Parameters and buffers of the task's own layers, by dotted path in the backbone.
        layers: The task's own layers, norms included; none for a task that reads the shared features.

    Returns:
        A network in eval mode, on the CPU. The global random state is left as it was.
    """
    own = network.spec
    spec = ModelSpec(
        own.backbone,
        {**own.decoders, task.name: task.decoder},
        {**own.out_channels, task.name: task.out_channels},
        {**own.dense, task.name: task.is_dense},
        {**own.branch_points, task.name: task.branch_point},
        {**own.task_layers, task.name: layers},
    )
    with torch.random.fork_rng(devices=[]):
        model = spec.build()
    entries = {name: value.cpu() for name, value in network.state_dict().items()}
    entries |= {f"backbone.{_own(task.name, name)}": value.cpu() for name, value in weights.items()}
    entries |= {f"decoders.{task.name}.{name}": value.cpu() for name, value in decoder.state_dict().items()}
    model.load_state_dict(entries)
    return model.eval()


def _alone(spec: ModelSpec, task: NewTask) -> ModelSpec:
    return ModelSpec(
        spec.backbone,
        {task.name: task.decoder},
        {task.name: task.out_channels},
        {task.name: task.is_dense},
        {task.name: task.branch_point},
    )


def _own(task: str, entry: str) -> str:
    layer, _, name = entry.rpartition(".")
    return f"{own_name(task, layer)}.{name}"


def _backbone(spec: BackboneSpec) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return create_backbone(spec)
