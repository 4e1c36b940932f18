"""Recipes: one YAML file that says everything about a run, validated with every mistake at once."""

from lomt.recipe.add_settings import AddSettings
from lomt.recipe.base import IMAGE_KINDS, Settings, TaskKind
from lomt.recipe.data_settings import AugmentSettings, DataSettings, RoomCounts
from lomt.recipe.finetune_settings import FinetuneSettings
from lomt.recipe.group_settings import GroupSettings
from lomt.recipe.joint_settings import JointSettings
from lomt.recipe.load import load_recipe, parse_recipe
from lomt.recipe.locate_settings import LambdaSettings, LocateSettings, StopSettings
from lomt.recipe.model_settings import BackboneSettings, DecoderSettings, ModelSettings, TaskSettings
from lomt.recipe.places import find_data, find_model_weights, find_weights
from lomt.recipe.prune_settings import DistillSettings, PruneSettings
from lomt.recipe.schema import recipe_schema
from lomt.recipe.settings import BenchSettings, ExportSettings, Recipe, RewireSettings
from lomt.recipe.shipped import shipped_paths, shipped_recipes
from lomt.recipe.sparsify_settings import SparsifySettings, SparsifyTarget
from lomt.recipe.train_settings import (
    EarlyStoppingSettings,
    OptimizerSettings,
    ScheduleSettings,
    TrainSettings,
)

__all__ = [
    "IMAGE_KINDS",
    "AddSettings",
    "AugmentSettings",
    "BackboneSettings",
    "BenchSettings",
    "DataSettings",
    "DecoderSettings",
    "DistillSettings",
    "EarlyStoppingSettings",
    "ExportSettings",
    "FinetuneSettings",
    "GroupSettings",
    "JointSettings",
    "LambdaSettings",
    "LocateSettings",
    "ModelSettings",
    "OptimizerSettings",
    "PruneSettings",
    "Recipe",
    "RewireSettings",
    "RoomCounts",
    "ScheduleSettings",
    "Settings",
    "SparsifySettings",
    "SparsifyTarget",
    "StopSettings",
    "TaskKind",
    "TaskSettings",
    "TrainSettings",
    "find_data",
    "find_model_weights",
    "find_weights",
    "load_recipe",
    "parse_recipe",
    "recipe_schema",
    "shipped_paths",
    "shipped_recipes",
]
