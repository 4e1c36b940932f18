"""One task's part of an adopted network: the model's own decoder, or a new one for another layer."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lomt.models.adopted.adapter import Adapter
from lomt.models.adopted.adoption import Adoption
from lomt.models.adopted.answers import AdoptionError
from lomt.models.factory import Factory
from lomt.models.graph_module import GraphModule

__all__ = ["AdoptedDecoder", "NewDecoder", "make_decoder"]


class AdoptedDecoder(nn.Module):
    """One task's part of the model, and adapters for what it no longer reads where it did.

    Args:
        part: From what the decoder was made for to its prediction.
        reads: What is read in place of each of these, by their names; inputs of the model keep theirs.
        adapters: By position.
    """

    def __init__(self, part: GraphModule, reads: Mapping[str, str], adapters: Mapping[int, Adapter]) -> None:
        super().__init__()
        self.part, self.reads = part, dict(reads)
        self.adapters = nn.ModuleDict({str(number): adapter for number, adapter in adapters.items()})

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Predict from features, and inputs of the model, by name."""
        given = []
        for number, name in enumerate(self.reads.values()):
            is_adapted = str(number) in self.adapters
            given.append(self.adapters[str(number)](features[name]) if is_adapted else features[name])
        prediction: Tensor = self.part.run(*given)
        return prediction


class NewDecoder(nn.Module):
    """A decoder that was made for one layer.

    Args:
        layer: Its name.
        module: From its features to predictions.
    """

    def __init__(self, layer: str, module: nn.Module) -> None:
        super().__init__()
        self.module, self.reads = module, {layer: layer}
        self.adapters = nn.ModuleDict()

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Predict from features by name."""
        (layer,) = self.reads
        prediction: Tensor = self.module(features[layer])
        return prediction


def make_decoder(
    adoption: Adoption, task: str, reads: Mapping[str, str], new: str | None, memo: dict[object, object]
) -> AdoptedDecoder | NewDecoder:
    """Return a task's decoder at its branch point.

    Args:
        adoption: The model taken apart.
        task: The task.
        reads: What it reads in place of each of these that it was made for, in forward order.
        new: What builds a decoder in place of the model's own and its adapters, where the task moves.
        memo: Of ``copy.deepcopy``, for parts that tasks share.

    Raises:
        LomtError: The layer's features have no form that the decoder can take, or the new decoder does not fit.
    """
    moved = {
        number: (name, made_for) for number, (made_for, name) in enumerate(reads.items()) if name != made_for
    }
    if moved and new is not None:
        layers = sorted({name for name, _ in moved.values()})
        if len(layers) > 1:
            raise AdoptionError(
                f"Expected one layer for task `{task}`, because its new decoder `{new}` reads one, but got "
                f"{', '.join(layers)}. Name one, or leave the task out of `new_decoders`."
            )
        return NewDecoder(layers[0], _built(new, adoption, task, layers[0]))
    features = adoption.features
    adapters = {
        number: Adapter(features[name], features[made_for]) for number, (name, made_for) in moved.items()
    }
    return AdoptedDecoder(adoption.decoder_part(task, memo), reads, adapters)


def _built(factory: str, adoption: Adoption, task: str, layer: str) -> nn.Module:
    """Build a new decoder and make sure that its predictions have the form of the model's own."""
    feature, mode = adoption.features[layer], adoption.modes[False]
    wanted = mode.trace.values[mode.split.answers[task]].shape
    facts = {"channels": feature.channels, "reduction": feature.reduction, "out_channels": wanted[1]}
    decoder = Factory(factory, facts).build()
    try:
        with torch.no_grad():
            found = tuple(decoder.eval()(torch.zeros(2, *feature.shape)).shape)
    except Exception as error:  # the user's own code runs: anything may be raised
        raise AdoptionError(
            f"Expected decoder `{factory}` of task `{task}` to take features of shape (batch, "
            f"{', '.join(map(str, feature.shape))}) of layer `{layer}`, but it raised {type(error).__name__}: {error}"
        ) from error
    if len(found) != len(wanted) or found[1] != wanted[1]:
        raise AdoptionError(
            f"Expected decoder `{factory}` of task `{task}` to predict {wanted[1]} channels in {len(wanted)} "
            f"dimensions as the model does, but got the shape (batch, {', '.join(map(str, found[1:]))})."
        )
    return decoder.train()
