"""A recipe: one frozen model a block, every key with its meaning and unit."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from lomt.recipe.add_settings import AddSettings
from lomt.recipe.base import Positive, PositiveInt, Settings
from lomt.recipe.data_settings import DataSettings
from lomt.recipe.finetune_settings import FinetuneSettings
from lomt.recipe.group_settings import GroupSettings
from lomt.recipe.inheritance import resolve
from lomt.recipe.locate_settings import LocateSettings
from lomt.recipe.model_settings import ModelSettings, TaskSettings
from lomt.recipe.prune_settings import DistillSettings, PruneSettings
from lomt.recipe.quantize_settings import QuantizeSettings
from lomt.recipe.sparsify_settings import SparsifySettings
from lomt.recipe.train_settings import TrainSettings

__all__ = ["BenchSettings", "ExportSettings", "Recipe", "RewireSettings"]


class RewireSettings(Settings):
    """The new model with decoders at the branch points and no backbone after the deepest."""

    branch_points: dict[str, str | dict[str, str]] | None = Field(
        default=None,
        description="Backbone layer of each task; null takes what locate found. Of a decoder of your own model that "
        "reads several layers also the layer to read in place of each that moves, by the layer it was made for.",
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

    `train` within `locate`, `rewire`, `sparsify`, `prune`, `finetune` and `add` names what differs from the recipe's
    `train`, a task's `decoder` what differs from `model.decoder`; in a validated recipe all of them are complete.
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
    target_alone: bool = Field(
        default=True,
        description="Where there is a `target`, also train it in a network of its own: for as many epochs as the "
        "multitask network, and for as long. The summary shows all of them.",
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
    add: AddSettings | None = Field(
        default=None, description="A new task for a trained network (`lomt add` only); null for the defaults."
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
