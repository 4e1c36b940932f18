"""The keys of the network and its tasks: timm's parts, or a model of the user's own."""

from typing import Any, Literal

from pydantic import Field

from lomt.recipe.base import NonNegative, PositiveInt, Settings, TaskKind

__all__ = ["BackboneSettings", "DecoderSettings", "ModelSettings", "TaskSettings"]


class DecoderSettings(Settings):
    """What turns backbone features into a task's prediction."""

    kind: Literal["aspp", "linear", "classifier"] = Field(
        default="aspp",
        description="`aspp`: DeepLabV3's head. `linear`: one 1x1 convolution. `classifier`: pooling and a "
        "linear layer, for tasks with one answer an image.",
    )
    width: PositiveInt = Field(default=64, description="Channels inside the decoder (aspp).")
    rates: list[PositiveInt] = Field(
        default=[6, 12, 18], min_length=1, description="Dilations of the atrous branches (aspp)."
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout probability.")


class TaskSettings(Settings):
    """What is learned, from which target, with which loss."""

    kind: TaskKind = Field(description="What a prediction is; decides on losses and metrics.")
    target: str | None = Field(default=None, description="Target of the dataset; null is the task's name.")
    weight: NonNegative = Field(default=1.0, description="Factor of the loss (weighting fixed).")
    loss: str | None = Field(default=None, description="Loss of this kind; null takes its default.")
    loss_options: dict[str, Any] = Field(default={}, description="Keyword arguments of the loss.")
    decoder: DecoderSettings = Field(
        default=DecoderSettings(), description="What differs from `model.decoder` for this task."
    )


class BackboneSettings(Settings):
    """The shared feature extractor."""

    name: str | None = Field(
        default=None, description="timm's name of the backbone; needed without `model.factory`."
    )
    path: list[str] | None = Field(
        default=None,
        min_length=1,
        description="Modules of your own model that make up the backbone (with `model.factory`), for which `backbone: "
        "encoder` is short; null takes the modules that two tasks or more share.",
    )
    output_stride: Literal[8, 16, 32] | None = Field(
        default=None, description="Image pixels per pixel of the last feature map; null keeps timm's."
    )
    weights: str | None = Field(
        default=None,
        description="null: random. `pretrained`: timm's download. Otherwise a safetensors file; a relative "
        "one is looked up in $LOMT_WEIGHTS, $LOMT_DATA, then in the working directory.",
    )
    options: dict[str, Any] = Field(
        default={}, description="Further keyword arguments of timm.create_model, such as stem_width."
    )


class ModelSettings(Settings):
    """Backbone and decoders: built from timm's parts, or a model of your own."""

    backbone: BackboneSettings = Field(
        default=BackboneSettings(), description="The shared feature extractor."
    )
    decoder: DecoderSettings = Field(
        default=DecoderSettings(), description="Decoder of every task that does not say otherwise."
    )
    factory: str | None = Field(
        default=None,
        description="Your own model: `package.module:callable` or `path/file.py:callable`. `lomt adopt` proposes the "
        "rest of the block.",
    )
    factory_options: dict[str, Any] = Field(default={}, description="Keyword arguments of the factory.")
    weights: str | None = Field(
        default=None,
        description="safetensors file or torch checkpoint of your model; null leaves what the factory gives. A "
        "relative one is looked up in $LOMT_WEIGHTS, $LOMT_DATA, then in the working directory.",
    )
    trained: bool | None = Field(
        default=None,
        description="Whether your model is trained, so that stage `train` takes it as it is; null: where `weights` are "
        "given.",
    )
    inputs: list[str] = Field(
        default=[],
        description="Targets of the dataset that your model takes after the image, in the order of its arguments. They "
        "become further channels of the image.",
    )
    outputs: dict[str, str] = Field(
        default={},
        description="By task, where its prediction is in what your model returns: keys and positions with dots "
        "between, such as `1` or `heads.depth`. Not needed for a dictionary whose keys are the tasks.",
    )
    decoders: dict[str, str | list[str]] = Field(
        default={},
        description="By task, the module or modules of its decoder in your model; they are checked, not needed.",
    )
    new_decoders: dict[str, str] = Field(
        default={},
        description="By task, what builds a new decoder where the task moves to another layer, in place of your "
        "model's and an adapter: `package.module:callable`, called with channels, reduction and out_channels.",
    )
