"""Multitask models: timm backbones cut at their branch points, decoders, and their files."""

from lomt.models.adopted import (
    AdoptedModel,
    AdoptedSpec,
    Adoption,
    AdoptionError,
    adopt,
    describe,
    explain,
    fit_adapters,
    recipe_block,
)
from lomt.models.backbone import BackboneSpec, create_backbone
from lomt.models.decoders import AsppDecoder, DecoderKind, DecoderSpec, build_decoder, set_output_biases
from lomt.models.extension import NewTask, PathChoice, choose_path, extend, new_task_network
from lomt.models.intermediates import Backbone
from lomt.models.layers import Granularity, Layer, inspect_backbone, list_layers
from lomt.models.multitask import ModelSpec, MultiTaskModel
from lomt.models.storage import load_model, save_model
from lomt.models.task_network import TaskNetwork
from lomt.models.truncate import last_layer, load_shared, truncate

__all__ = [
    "AdoptedModel",
    "AdoptedSpec",
    "Adoption",
    "AdoptionError",
    "AsppDecoder",
    "Backbone",
    "BackboneSpec",
    "DecoderKind",
    "DecoderSpec",
    "Granularity",
    "Layer",
    "ModelSpec",
    "MultiTaskModel",
    "NewTask",
    "PathChoice",
    "TaskNetwork",
    "adopt",
    "build_decoder",
    "choose_path",
    "create_backbone",
    "describe",
    "explain",
    "extend",
    "fit_adapters",
    "inspect_backbone",
    "last_layer",
    "list_layers",
    "load_model",
    "load_shared",
    "new_task_network",
    "recipe_block",
    "save_model",
    "set_output_biases",
    "truncate",
]
