"""Multitask models: timm backbones cut at their branch points, decoders, and their files."""

from lomt.models.backbone import BackboneSpec, create_backbone
from lomt.models.decoders import AsppDecoder, DecoderKind, DecoderSpec, build_decoder, set_output_biases
from lomt.models.intermediates import Backbone
from lomt.models.layers import Granularity, Layer, inspect_backbone, list_layers
from lomt.models.multitask import ModelSpec, MultiTaskModel
from lomt.models.storage import load_model, save_model
from lomt.models.truncate import last_layer, load_shared, truncate

__all__ = [
    "AsppDecoder",
    "Backbone",
    "BackboneSpec",
    "DecoderKind",
    "DecoderSpec",
    "Granularity",
    "Layer",
    "ModelSpec",
    "MultiTaskModel",
    "build_decoder",
    "create_backbone",
    "inspect_backbone",
    "last_layer",
    "list_layers",
    "load_model",
    "load_shared",
    "save_model",
    "set_output_biases",
    "truncate",
]
