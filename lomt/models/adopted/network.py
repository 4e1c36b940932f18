"""A network made of a model that somebody else wrote, its decoders at their branch points."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from lomt.models.adopted.adapter import Adapter, AdapterFit
from lomt.models.adopted.adoption import Adoption, adopt
from lomt.models.adopted.answers import AdoptionError
from lomt.models.adopted.decoders import AdoptedDecoder, make_decoder
from lomt.models.checkpoint_file import load_weights
from lomt.models.factory import Factory
from lomt.models.graph_module import GraphModule
from lomt.models.task_network import TaskNetwork

__all__ = ["AdoptedModel", "AdoptedSpec", "build_adopted", "fit_adapters"]


@dataclass(frozen=True)
class AdoptedSpec:
    """Everything that is needed to build a network from somebody else's model, apart from its weights.

    Args:
        factory: What builds the model, see :class:`lomt.models.factory.Factory`.
        dense: Whether each task has a prediction for every pixel; the order is the order of the tasks.
        size: Height and width of the images in pixels.
        kwargs: The factory's keyword arguments, of types that JSON knows.
        outputs: By task, where its prediction is in what the model returns; empty for a dictionary by task.
        backbone: Modules of the backbone; empty for what two tasks or more share.
        decoder_paths: Modules of the tasks' decoders, to be checked.
        branch_points: The deepest layer that each task reads; tasks left out read what they were made for.
        reads: By task, what its decoder reads in place of some of what it was made for, whatever the
            branch point says; without one it is the deepest of them.
        new_decoders: By task, what builds a decoder for any layer in place of the model's own and its adapters: called
            with ``channels``, ``reduction`` and ``out_channels``, it returns a module from features to predictions.
        inputs: Channels of what the model takes after the images, by any name, in the order of its arguments; all are
            as high and wide as the images.
    """

    factory: str
    dense: Mapping[str, bool]
    size: tuple[int, int]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    backbone: tuple[str, ...] = ()
    decoder_paths: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    branch_points: Mapping[str, str] = field(default_factory=dict)
    reads: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    new_decoders: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, int] = field(default_factory=dict)

    @property
    def decoders(self) -> tuple[str, ...]:
        """The tasks, in order."""
        return tuple(self.dense)

    @property
    def input_channels(self) -> tuple[int, ...]:
        """Channels of the model's inputs, images first."""
        return (3, *self.inputs.values())

    def apart(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the model's inputs, which are channels of the images, (batch, channels, height, width)."""
        return images.split(self.input_channels, 1) if self.inputs else (images,)

    def to_dict(self) -> dict[str, Any]:
        """Describe the model in types that JSON knows."""
        own = dataclasses.asdict(self)
        paths = {task: list(paths) for task, paths in self.decoder_paths.items()}
        return {**own, "size": list(self.size), "backbone": list(self.backbone), "decoder_paths": paths}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "AdoptedSpec":
        """Read the result of :meth:`to_dict`.

        Raises:
            ValueError: A key is missing or unknown.
        """
        known = {entry.name for entry in dataclasses.fields(cls)}
        if set(values) != known:
            raise ValueError(
                f"Expected a model description with the keys {sorted(known)}, but got {sorted(values)}."
            )
        paths = {task: tuple(own) for task, own in values["decoder_paths"].items()}
        height, width = values["size"]
        more = {"size": (height, width), "backbone": tuple(values["backbone"]), "decoder_paths": paths}
        return cls(**{**values, **more})

    def adopt(self, weights: str | Path | None = None) -> Adoption:
        """Build somebody else's model and take it apart.

        Args:
            weights: A safetensors file or torch checkpoint of the model; ``None`` leaves what the factory gives.

        Raises:
            LomtError: The model cannot be built, the weights do not fit, or the model cannot be cut as described.
        """
        model = Factory(self.factory, self.kwargs).build()
        if weights is not None:
            load_weights(model, weights)
        # All of the model's outputs are looked at, so that a part of its tasks does not change what it shares.
        adoption = adopt(
            model,
            [torch.empty(1, channels, *self.size) for channels in self.input_channels],
            outputs=self.outputs,
            lone=next(iter(self.dense)),
            backbone=self.backbone,
            decoders=self.decoder_paths,
        )
        unknown = [task for task in self.dense if task not in adoption.tasks]
        if unknown:
            raise AdoptionError(
                f"Expected model `{self.factory}` to return predictions of {', '.join(f'`{t}`' for t in unknown)}, but "
                f"it returns {', '.join(f'`{t}`' for t in adoption.tasks)}. Name where each is under `outputs`."
            )
        return adoption

    def build(self, weights: str | Path | None = None) -> "AdoptedModel":
        """Build the network; adapters get random weights.

        Args:
            weights: As in :meth:`adopt`.

        Returns:
            A model in train mode, whose ``spec`` names the branch point of every task.

        Raises:
            LomtError: As :meth:`adopt`, or a task cannot read its layer.
        """
        return self.cut(self.adopt(weights))

    def cut(self, adoption: Adoption) -> "AdoptedModel":
        """Build the network from a model taken apart before; see :meth:`build`."""
        own = {
            task: self.branch_points.get(task) or adoption.deepest(task, self.reads.get(task))
            for task in self.dense
        }
        spec = dataclasses.replace(self, backbone=adoption.backbone, branch_points=own)
        return AdoptedModel(spec, adoption).train()


class AdoptedModel(TaskNetwork):
    """A truncated backbone and decoders that were cut out of one model.

    At the layers that it reads itself, the network computes bit for bit what the model does.

    Args:
        spec: Description with a branch point for every task.
        adoption: The model taken apart; nothing of it is shared.
    """

    factory = "lomt.models.adopted.network:build_adopted"
    spec: AdoptedSpec
    backbone: GraphModule

    def __init__(self, spec: AdoptedSpec, adoption: Adoption) -> None:
        super().__init__()
        self.spec = spec
        memo: dict[object, object] = {}
        self._inputs = adoption.inputs
        self.decoders = nn.ModuleDict(
            {
                task: make_decoder(
                    adoption,
                    task,
                    adoption.instead(task, spec.branch_points[task], spec.reads.get(task)),
                    spec.new_decoders.get(task),
                    memo,
                )
                for task in spec.dense
            }
        )
        read = [name for own in self.decoders.values() for name in cast(AdoptedDecoder, own).reads.values()]
        layers = list(dict.fromkeys(name for name in read if name not in adoption.inputs))
        self.backbone = adoption.backbone_part(layers, memo)

    @property
    def has_adapters(self) -> bool:
        """Whether a decoder reads another layer than it was made for, by an adapter."""
        return any(len(cast(AdoptedDecoder, own).adapters) for own in self.decoders.values())

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Predict all tasks.

        Args:
            inputs: Those of the model, images first, (batch, channels, height, width); or all of them as one, their
                channels in this order.

        Returns:
            Predictions by task, as the model gives them; those of dense tasks enlarged to the images' height and
            width where they are smaller.
        """
        if len(inputs) < len(self._inputs):
            inputs = self.spec.apart(inputs[0])
        features = {**self.backbone.run(*inputs), **dict(zip(self._inputs, inputs, strict=True))}
        predictions = {}
        for task, decoder in self.decoders.items():
            prediction = decoder(features)
            size = inputs[0].shape[-2:]
            if self.spec.dense[task] and prediction.shape[-2:] != size:
                prediction = functional.interpolate(
                    prediction, size=size, mode="bilinear", align_corners=False
                )
            predictions[task] = prediction
        return predictions


def build_adopted(**spec: Any) -> AdoptedModel:
    """Build a network from the entries of its :meth:`AdoptedSpec.to_dict`."""
    return AdoptedSpec.from_dict(spec).build()


@torch.no_grad()
def fit_adapters(model: AdoptedModel, reference: AdoptedModel, batches: Iterable[Tensor]) -> None:
    """Start every adapter at what comes nearest to the features that it stands in for, see :class:`AdapterFit`.

    Args:
        model: A network whose adapters are set; it is left in the mode it was in.
        reference: The same network as its model has it.
        batches: Images as networks take them.
    """
    decoders = [cast(AdoptedDecoder, own) for own in model.decoders.values()]
    fits = [
        (AdapterFit(cast(Adapter, decoder.adapters[str(number)])), name, made_for)
        for decoder in decoders
        for number, (made_for, name) in enumerate(decoder.reads.items())
        if str(number) in decoder.adapters
    ]
    if not fits:
        return
    was_training = model.training
    model.eval()
    reference.eval()
    for images in batches:
        inputs = model.spec.apart(images)
        own, theirs = model.backbone.run(*inputs), reference.backbone.run(*inputs)
        for fit, name, made_for in fits:
            fit.add(own[name], theirs[made_for])
    for fit, _, _ in fits:
        fit.finish()
    model.train(was_training)
