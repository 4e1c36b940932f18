"""The keys of a recipe: one frozen model a block, every key with its meaning and unit."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from lomt.recipe.base import (
    Fraction,
    NonNegative,
    Positive,
    PositiveInt,
    Relaxed,
    Settings,
    TaskKind,
)
from lomt.recipe.finetune_settings import FinetuneSettings
from lomt.recipe.group_settings import GroupSettings
from lomt.recipe.inheritance import resolve
from lomt.recipe.joint_settings import JointSettings
from lomt.recipe.prune_settings import DistillSettings, PruneSettings
from lomt.recipe.quantize_settings import QuantizeSettings
from lomt.recipe.sparsify_settings import SparsifySettings
from lomt.recipe.train_settings import TrainSettings

__all__ = [
    "AugmentSettings",
    "BackboneSettings",
    "BenchSettings",
    "DataSettings",
    "DecoderSettings",
    "ExportSettings",
    "LambdaSettings",
    "LocateSettings",
    "ModelSettings",
    "Recipe",
    "RewireSettings",
    "RoomCounts",
    "StopSettings",
    "TaskSettings",
]

Rule = Literal[
    "before_first_dead_run", "deepest_active", "last_active_bypassable", "density_threshold", "steepest_fall"
]
Enlargement = Annotated[float, Field(ge=1)]
Colour = Annotated[tuple[float, float, float], Relaxed]
PositiveColour = Annotated[tuple[Positive, Positive, Positive], Relaxed]


class RoomCounts(Settings):
    """How many rooms are drawn for each split."""

    train: PositiveInt = Field(default=800, description="Training images.")
    validation: int = Field(default=0, ge=0, description="Validation images; 0 for none.")
    test: PositiveInt = Field(default=200, description="Test images.")


class AugmentSettings(Settings):
    """Random changes of the training images and of their targets."""

    flip: Fraction = Field(default=0.5, description="Probability of a left-right flip.")
    scale: Annotated[tuple[Enlargement, Enlargement], Relaxed] = Field(
        default=(1.0, 1.0),
        description="Smallest and largest factor, at least 1, by which a crop is enlarged.",
    )
    rescale_depth: bool = Field(default=True, description="Divide depth by the factor of `scale`.")
    brightness: Fraction = Field(default=0.0, description="Largest relative change of brightness.")
    contrast: Fraction = Field(default=0.0, description="Largest relative change of contrast.")


class DataSettings(Settings):
    """Where the samples come from."""

    kind: Literal[
        "folder",
        "images",
        "rooms",
        "nyuv2_mat",
        "nyuv2_mtan",
        "nyud_mt",
        "celebamask",
        "cityscapes",
        "mtfl",
        "taskonomy",
        "factory",
    ] = Field(
        description="`folder`: a folder with a dataset.yaml. `images`: a folder of images without labels. `rooms`: "
        "synthetic rooms, no download. `factory`: what `data.factory` returns. The others are datasets as published; "
        "`lomt data check PATH` tells which."
    )
    root: str | None = Field(
        default=None,
        description="Dataset folder (nyuv2_mat: or the file); a relative one is looked up in $LOMT_DATA, then in "
        "the working directory.",
    )
    size: Annotated[tuple[PositiveInt, PositiveInt], Relaxed] = Field(
        description="Height and width in pixels of what the model sees."
    )
    validation_fraction: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the training split held out for validation, where a stored dataset has no "
        "validation split.",
    )
    test_fraction: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Share of all images held out for testing, before `validation_fraction` (kind images).",
    )
    targets: Literal["dataset", "original"] = Field(
        default="dataset",
        description="`dataset`: its labels. `original`: predictions of the original network, `model.factory`, for the "
        "training and validation splits, and in the test split for tasks of which the dataset has no labels.",
    )
    counts: RoomCounts = Field(default=RoomCounts(), description="Images a split (kind rooms).")
    cache: bool = Field(default=True, description="Decode every image once and keep it in memory.")
    cache_dir: str | None = Field(
        default=None,
        description="Folder written by `lomt data cache`: samples are read from it, memory-mapped, and not decoded.",
    )
    damaged: Literal["refuse", "skip"] = Field(
        default="refuse",
        description="Before training every sample is read. `refuse`: damaged ones end the run. `skip`: they are "
        "left out and counted in the summary.",
    )
    factory: str | None = Field(
        default=None,
        description="`package.module:callable` or `path/file.py:callable` (kind factory), called with split and size; "
        "returns a dataset such as lomt.data.adapt makes, or None for no validation split.",
    )
    factory_options: dict[str, Any] = Field(
        default={}, description="Further keyword arguments of the factory."
    )
    workers: int = Field(default=0, ge=0, description="Loader processes; 0 loads in a thread.")
    augment: AugmentSettings = Field(
        default=AugmentSettings(), description="Random changes of training images."
    )
    mean: Colour | None = Field(
        default=None, description="Mean of red, green, blue in 0..1; null takes the backbone's own."
    )
    std: PositiveColour | None = Field(
        default=None, description="Standard deviation of red, green, blue; null takes the backbone's own."
    )


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


class LambdaSettings(Settings):
    """The path of lambdas, log-spaced, each run starting where the one before ended."""

    start: Positive = Field(default=1e-4, description="First lambda.")
    stop: Positive = Field(default=1e-3, description="Last lambda.")
    count: PositiveInt = Field(default=10, description="How many lambdas, both ends included.")


class StopSettings(Settings):
    """When a sparse run ends before its last epoch."""

    sparsity: Fraction = Field(default=0.8, description="Share of zero channel groups that is enough.")
    stalled_change: Fraction = Field(
        default=0.001, description="Change of sparsity in an epoch below which it counts as stalled."
    )
    stalled_patience: PositiveInt = Field(default=30, description="Stalled epochs in a row before the end.")
    loss_tolerance: NonNegative | None = Field(
        default=None, description="Relative rise of the validation loss that ends the run; null for none."
    )


class LocateSettings(Settings):
    """Which backbone layer each task needs: sparse training and a rule."""

    method: Literal["single_task", "joint"] = Field(
        default="single_task",
        description="`single_task`: each task alone, group lasso on the backbone (LOMT). `joint`: one run of all "
        "tasks, each reading every layer; settings in `locate.joint`.",
    )
    start: Literal["dense", "initial"] = Field(default="dense", description="Weights each run starts from.")
    seeds: PositiveInt = Field(
        default=1, description="Runs, each with its own seed; of every task by itself with single_task."
    )
    lambdas: LambdaSettings = Field(default=LambdaSettings(), description="Strength of the group lasso.")
    normalise_loss: bool = Field(
        default=True,
        description="Divide each task's loss by its value at the start, so that one lambda means the same for "
        "all tasks; the papers do not. With `data.targets: original` the loss of the best constant answer stands for "
        "it.",
    )
    metric: Literal["adam", "euclidean"] = Field(
        default="adam", description="Metric of the proximal step; `adam` is the optimizer's own."
    )
    activity: Fraction = Field(
        default=0.01, description="A layer is active when more than this share of its groups survives."
    )
    rule: Rule = Field(
        default="before_first_dead_run", description="How the branch point follows from the active layers."
    )
    finer_epochs: int = Field(
        default=0,
        ge=0,
        description="Epochs for which a task is trained alone at the layer found and at the last block of each finer "
        "resolution before it; the least loss wins. 0 leaves it at the layer found.",
    )
    granularity: Literal["block", "conv"] = Field(
        default="block", description="Branch points at block outputs or at raw convolution outputs (paper)."
    )
    stop: StopSettings = Field(default=StopSettings(), description="When a run ends early.")
    joint: JointSettings = Field(default=JointSettings(), description="The one run of method `joint`.")
    train: TrainSettings = Field(
        description="What differs from `train`; `epochs` are those for one lambda.",
    )


class RewireSettings(Settings):
    """The new model with decoders at the branch points and no backbone after the deepest."""

    branch_points: dict[str, str] | None = Field(
        default=None, description="Backbone layer of each task; null takes what locate found."
    )
    start: Literal["initial", "dense"] = Field(
        default="initial", description="Weights the rewired backbone starts from."
    )
    distill: DistillSettings | None = Field(
        default=None,
        description="Learn from the dense network as well; null for labels alone or, with `data.targets: original` "
        "and without aggregation bayesagg, for weight 1.",
    )
    train: TrainSettings = Field(description="What differs from `train`.")


class ExportSettings(Settings):
    """The ONNX files and their check."""

    opset: int = Field(default=18, ge=18, description="ONNX operator set.")
    batch_sizes: list[PositiveInt] = Field(
        default=[1, 3, 8], min_length=1, description="Batch sizes at which outputs are compared."
    )
    open_size: bool = Field(
        default=False,
        description="Leave height and width open where the network allows it; files for one size run faster.",
    )


class BenchSettings(Settings):
    """Latency and quality against the dense model."""

    threads: list[PositiveInt] = Field(
        default=[1], min_length=1, description="Thread counts, each measured by itself."
    )
    batch: PositiveInt = Field(default=1, description="Images a call.")
    rounds: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="Rounds, each in a fresh process; null is 10, with `quick` 5."
    )
    seconds: Positive | None = Field(
        default=None,
        description="Recorded seconds for each file over all rounds; null is 10, with `quick` 1.",
    )
    quick: bool = Field(default=False, description="A short measurement; wider intervals.")
    delta_m: Literal["mean", "sum"] = Field(
        default="mean", description="How a task's metrics are combined in delta_m; AdapMTL's tables sum."
    )


class Recipe(Settings):
    """Everything a run needs to know; blocks left out take their defaults.

    `train` within `locate`, `rewire`, `sparsify`, `prune` and `finetune` names what differs from the recipe's `train`,
    a task's `decoder` what differs from `model.decoder`; in a validated recipe all of them are complete.
    """

    version: Literal[1] = Field(default=1, description="Version of the recipe format.")
    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the run and of its default directory."
    )
    seed: int = Field(default=0, ge=0, description="Seed of everything random.")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where models are trained.")
    threads: PositiveInt | None = Field(
        default=None, description="CPU threads of torch; null leaves it alone."
    )
    data: DataSettings = Field(description="Where the samples come from.")
    tasks: dict[Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")], TaskSettings] = Field(
        min_length=1, description="The tasks by name."
    )
    target: str | None = Field(
        default=None,
        description="The task that counts in the end; the others are auxiliary. Weightings and aggregations that know "
        "of it need it, early stopping and `keep: best` then look at it alone.",
    )
    model: ModelSettings = Field(description="Backbone and decoders.")
    train: TrainSettings = Field(description="Training of the dense model, and base of the other stages'.")
    locate: LocateSettings = Field(description="Which layer each task needs.")
    rewire: RewireSettings = Field(description="The smaller model.")
    sparsify: SparsifySettings | None = Field(
        default=None, description="Zeros up to a target and their exact removal; null leaves the stage out."
    )
    prune: PruneSettings | None = Field(
        default=None, description="Fewer channels, down to a budget; null leaves the stage out."
    )
    finetune: FinetuneSettings | None = Field(
        default=None,
        description="More training for one task alone, in the parts that matter to it; null leaves the stage out.",
    )
    group: GroupSettings = Field(
        default=GroupSettings(), description="Which tasks share a network (`lomt group` only)."
    )
    export: ExportSettings = Field(default=ExportSettings(), description="The ONNX files.")
    quantize: QuantizeSettings | None = Field(
        default=None, description="An int8 file of the network to deploy; null leaves the stage out."
    )
    bench: BenchSettings = Field(default=BenchSettings(), description="Latency and quality.")

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, raw: Any) -> Any:
        return resolve(raw)
