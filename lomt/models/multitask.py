"""A multitask model: one truncated backbone, and a decoder per task at the task's branch point."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lomt.errors import UnknownNameError
from lomt.models.backbone import BackboneSpec, create_backbone
from lomt.models.decoders import DecoderSpec, build_decoder, set_output_biases
from lomt.models.intermediates import Backbone
from lomt.models.task_network import TaskNetwork
from lomt.models.task_paths import OWN_LAYERS, TaskPath
from lomt.models.truncate import last_layer, truncate

__all__ = ["MULTITASK", "ModelSpec", "MultiTaskModel"]

MULTITASK = "lomt:multitask"
"""Text of the factory of :class:`MultiTaskModel`; its arguments are those of :class:`ModelSpec`."""


@dataclass(frozen=True)
class ModelSpec:
    """Everything that is needed to build a multitask model, apart from its weights.

    Example:
        >>> import torch
        >>> spec = ModelSpec(
        ...     backbone=BackboneSpec("mobilenetv3_small_050"),
        ...     decoders={"depth": DecoderSpec("aspp", width=16), "scene": DecoderSpec("classifier")},
        ...     out_channels={"depth": 1, "scene": 13},
        ...     dense={"depth": True, "scene": False},
        ...     branch_points={"depth": "blocks.1.1", "scene": "blocks.3"},
        ... )
        >>> predictions = spec.build()(torch.rand(2, 3, 64, 96))
        >>> predictions["depth"].shape, predictions["scene"].shape
        (torch.Size([2, 1, 64, 96]), torch.Size([2, 13]))

    Args:
        backbone: The timm model before it is cut.
        decoders: Decoder of each task; the order is the order of the tasks.
        out_channels: Channels of each task's predictions.
        dense: Whether each task has a prediction for every pixel.
        branch_points: Layer that each task's decoder reads; tasks left out read the deepest block.
        task_layers: By task, the layers of the backbone up to its branch point that it has for its own, norms
            included; what does not depend on them is computed and stored once for all tasks.
    """

    backbone: BackboneSpec
    decoders: Mapping[str, DecoderSpec]
    out_channels: Mapping[str, int]
    dense: Mapping[str, bool]
    branch_points: Mapping[str, str] = field(default_factory=dict)
    task_layers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.decoders:
            raise ValueError("Expected `decoders` to have at least one task, but got none.")
        for task in self.decoders:
            _check_task_name(task)
        for name in ("out_channels", "dense"):
            if set(given := getattr(self, name)) != set(self.decoders):
                expected = ", ".join(self.decoders)
                raise ValueError(
                    f"Expected `{name}` to be given for the tasks {expected}, but got {dict(given)}."
                )
        for task in (*self.branch_points, *self.task_layers):
            if task not in self.decoders:
                raise UnknownNameError("task", task, self.decoders)
        own = {task: tuple(layers) for task, layers in self.task_layers.items() if layers}
        object.__setattr__(self, "task_layers", own)

    def to_dict(self) -> dict[str, Any]:
        """Describe the model in types that JSON knows."""
        return {
            "backbone": _plain(dataclasses.asdict(self.backbone)),
            "decoders": {task: _plain(dataclasses.asdict(spec)) for task, spec in self.decoders.items()},
            "out_channels": dict(self.out_channels),
            "dense": dict(self.dense),
            "branch_points": dict(self.branch_points),
            **({"task_layers": _plain(self.task_layers)} if self.task_layers else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelSpec":
        """Read the result of :meth:`to_dict`.

        Raises:
            ValueError: A key is missing or unknown, or a value is not allowed.
        """
        known = {entry.name for entry in dataclasses.fields(cls)}
        if set(values) not in (known, known - {"task_layers"}):
            raise ValueError(
                f"Expected a model description with the keys {sorted(known)}, but got {sorted(values)}."
            )
        try:
            backbone = BackboneSpec(**values["backbone"])
            decoders = {task: DecoderSpec(**spec) for task, spec in values["decoders"].items()}
        except TypeError as error:
            raise ValueError(
                f"Expected a model description that this version can read, but got {error}."
            ) from error
        return cls(
            backbone,
            decoders,
            values["out_channels"],
            values["dense"],
            values["branch_points"],
            {task: tuple(layers) for task, layers in values.get("task_layers", {}).items()},
        )

    def build(self, weights: str | Path | None = None) -> "MultiTaskModel":
        """Build the model; decoders get random weights.

        Args:
            weights: Weights of the backbone, as in :func:`lomt.models.create_backbone`.

        Returns:
            A model in train mode, whose ``spec`` names the branch point of every task.

        Raises:
            UnknownNameError: timm has no such model, or the model no such layer.
            UnsupportedLayerError: The model cannot be cut as described.
            ArtifactError: The weights cannot be had or belong to another model.
        """
        whole = create_backbone(self.backbone, weights)
        points = {task: self.branch_points.get(task, "") for task in self.decoders}
        if "" in points.values():
            deepest = last_layer(whole)
            points = {task: layer or deepest for task, layer in points.items()}
        shared = [layer for task, layer in points.items() if task not in self.task_layers]
        paths = [TaskPath(task, points[task], layers) for task, layers in self.task_layers.items()]
        backbone = truncate(whole, shared, paths)
        return MultiTaskModel(dataclasses.replace(self, branch_points=points), backbone)

    def feature(self, task: str) -> str:
        """Name the features that a task's decoder reads: its branch point, or its own version of it."""
        point = self.branch_points.get(task, "")
        return TaskPath(task, point, ()).feature if task in self.task_layers else point


class MultiTaskModel(TaskNetwork):
    """A truncated backbone and the decoders that read it; no two tasks share a decoder.

    Args:
        spec: Description with a branch point for every task.
        backbone: Backbone that puts out the features of all of them.
    """

    factory = MULTITASK
    spec: ModelSpec

    def __init__(self, spec: ModelSpec, backbone: Backbone) -> None:
        super().__init__()
        for task in spec.decoders:
            if spec.feature(task) not in backbone.channels:
                raise UnknownNameError("layer", spec.feature(task), backbone.channels)
        self.spec = spec
        self.backbone = backbone
        self.decoders = nn.ModuleDict(
            {
                task: build_decoder(
                    decoder,
                    backbone.channels[spec.feature(task)],
                    spec.out_channels[task],
                    spec.dense[task],
                )
                for task, decoder in spec.decoders.items()
            }
        )

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> dict[str, Tensor]:
        """Predict all tasks.

        Args:
            images: Normalised RGB images.

        Returns:
            Raw predictions by task, in the order of the tasks: (batch, out_channels, height, width) at the
            images' height and width for dense tasks, (batch, out_channels) for the others.
        """
        features = self.backbone(images)
        predictions = {}
        for task, decoder in self.decoders.items():
            prediction = decoder(features[self.spec.feature(task)])
            if self.spec.dense[task]:
                prediction = functional.interpolate(
                    prediction, size=images.shape[-2:], mode="bilinear", align_corners=False
                )
            predictions[task] = prediction
        return predictions

    def component_of(self, parameter_name: str) -> str:
        """Say to which part a parameter, buffer or module belongs; a task's own layers are part of the task.

        Args:
            parameter_name: Dotted name, as in ``named_parameters()``.

        Raises:
            UnknownNameError: The name is in no part.
        """
        parts = parameter_name.split(".")
        if parts[:2] == ["backbone", OWN_LAYERS] and len(parts) > 2 and parts[2] in self.decoders:
            return parts[2]
        return super().component_of(parameter_name)

    def set_output_biases(self, biases: Mapping[str, Tensor]) -> None:
        """Set what the heads predict before they look at features.

        Args:
            biases: By task, (out_channels,).
        """
        set_output_biases(self.decoders, biases)


def _check_task_name(task: str) -> None:
    taken = task == "backbone" or hasattr(nn.ModuleDict, task) or hasattr(nn.ModuleDict(), task)
    if not task or "." in task or taken:
        raise ValueError(
            f"Expected a task's name to be free of dots and not a name that modules use, but got `{task}`. "
            "Choose another, for example with the suffix `_task`."
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
