r"""Which layers of a trained backbone a new task has to change: task adaptive parameter sharing (TAPS).

The backbone's weights stay as they are. Every layer :math:`l` gets a change :math:`\delta_l`, zero at first, and a
score :math:`s_l`; the new task computes with

.. math:: w_l = w_l^\text{base} + \mathbf{1}[s_l \ge \tau] \, \delta_l

and minimises its loss plus :math:`\frac{\lambda}{L} \sum_{l=1}^L |s_l|`. The step has gradient 1 (straight through), so
that :math:`\partial / \partial s_l = \langle \partial / \partial w_l, \delta_l \rangle`: a layer keeps its change only
while that lowers the loss by more than the penalty costs.

References:
    Wallingford, Li, Achille, Ravichandran, Fowlkes, Bhotika, Soatto, "Task Adaptive Parameter Sharing for Multi-Task
    Learning", CVPR 2022, https://arxiv.org/abs/2203.16708, section 3.
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lomt.models import Backbone
from lomt.training.checkpoint import TrainingState
from lomt.training.evaluate import Evaluation

__all__ = ["AdaptedLayer", "AdaptedNorm", "AdaptiveBackbone", "ScorePenalty"]


class AdaptedLayer(nn.Module):
    """A layer whose weights are fixed, with a change that counts while its score reaches the threshold.

    Args:
        shared: A layer with parameters of its own only; they are frozen.
        score: Where the score starts.
        threshold: The score at which the change counts.
    """

    def __init__(self, shared: nn.Module, score: float, threshold: float) -> None:
        super().__init__()
        self.shared = shared.requires_grad_(False)
        self.threshold = threshold
        self.score = nn.Parameter(torch.tensor(float(score)))
        self.changes = nn.ParameterDict({name: torch.zeros_like(own) for name, own in _weights(shared)})

    @property
    def is_changed(self) -> bool:
        """Whether the change counts at present."""
        return bool(self.score.detach() >= self.threshold)

    def weights(self) -> dict[str, Tensor]:
        """Return the layer's weights with the change, if it counts; differentiable in changes and score."""
        gate: Tensor = _Step.apply(self.score, self.threshold)
        return {name: own + gate * self.changes[name] for name, own in _weights(self.shared)}

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute as the layer does, with its present weights."""
        result: Tensor = functional_call(self.shared, self.weights(), (inputs,))
        return result


class AdaptedNorm(nn.Module):
    """The norm behind an :class:`AdaptedLayer`: a copy of its own while the layer is changed, else the fixed one.

    Args:
        shared: The norm; frozen.
        layer: Whose output it reads; no part of this module.
    """

    def __init__(self, shared: nn.Module, layer: AdaptedLayer) -> None:
        super().__init__()
        self.own = deepcopy(shared).requires_grad_(True)
        self.shared = shared.requires_grad_(False)
        self._layer = (layer,)

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalise by the copy or by the fixed norm."""
        if self._layer[0].is_changed:
            changed: Tensor = self.own(inputs)
            return changed
        result: Tensor = self.shared(inputs)
        own = list(self.own.parameters())
        if self.training and own:  # several processes wait for a gradient of every parameter
            result = result + 0.0 * torch.stack([values.sum() for values in own]).sum()
        return result


class AdaptiveBackbone(Backbone):
    """A trained backbone of which a new task may change some layers; everything else is fixed, statistics included.

    Args:
        shared: The backbone; becomes part of this one and is frozen.
        layers: By dotted path, the layers that may change, with the norm behind each, if there is one.
        score: Where every layer's score starts.
        threshold: The score from which on a layer is changed.
    """

    def __init__(
        self, shared: Backbone, layers: Mapping[str, str | None], score: float, threshold: float
    ) -> None:
        super().__init__(shared.channels, shared.reduction)
        self.shared = shared.requires_grad_(False)
        self._norms = {layer: norm for layer, norm in layers.items() if norm is not None}
        self._layers = tuple(layers)
        for name in self._layers:
            _put(shared, name, AdaptedLayer(shared.get_submodule(name), score, threshold))
        for layer, norm in self._norms.items():
            _put(shared, norm, AdaptedNorm(shared.get_submodule(norm), self.layers[layer]))
        self.train(shared.training)

    @property
    def layers(self) -> dict[str, AdaptedLayer]:
        """The layers that may change, by dotted path in the backbone, in forward order."""
        found = {name: self.shared.get_submodule(name) for name in self._layers}
        return {name: layer for name, layer in found.items() if isinstance(layer, AdaptedLayer)}

    @property
    def norms(self) -> dict[str, AdaptedNorm]:
        """The norms behind them, by the layer's path."""
        found = {layer: self.shared.get_submodule(norm) for layer, norm in self._norms.items()}
        return {name: norm for name, norm in found.items() if isinstance(norm, AdaptedNorm)}

    def train(self, mode: bool = True) -> "AdaptiveBackbone":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                module.eval()
        for norm in self.norms.values():
            norm.own.train(mode)
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the features of every layer, each (batch, channels, height, width)."""
        features: dict[str, Tensor] = self.shared(images)
        return features

    def own_layers(self) -> tuple[str, ...]:
        """Name what is changed at present: layers in forward order, each with its norm."""
        return tuple(
            name for own in self._changed() for name in (own, self._norms.get(own)) if name is not None
        )

    @torch.no_grad()
    def own_weights(self) -> dict[str, Tensor]:
        """Return the changed layers' parameters and buffers by dotted path in the backbone, detached."""
        found: dict[str, Tensor] = {}
        for name in self._changed():
            found |= {
                f"{name}.{key}": value.detach().clone() for key, value in self.layers[name].weights().items()
            }
            if name in self._norms:
                entries = self.norms[name].own.state_dict()
                found |= {f"{self._norms[name]}.{key}": value.clone() for key, value in entries.items()}
        return found

    def _changed(self) -> list[str]:
        return [name for name, layer in self.layers.items() if layer.is_changed]


class ScorePenalty:
    r"""Draw scores to zero: the penalty's gradient :math:`\frac{\lambda}{L} \operatorname{sign}(s_l)`, as a part of
    training.

    It is added after gradients are clipped, so that clipping does not weaken it.

    Args:
        layers: Those with scores.
        penalty: :math:`\lambda`.
        warmup_epochs: Epochs before it counts.
    """

    def __init__(self, layers: Iterable[AdaptedLayer], penalty: float, warmup_epochs: int) -> None:
        self._layers, self._penalty, self._warmup_epochs = tuple(layers), penalty, warmup_epochs
        self._is_on = False
        self._handle: RemovableHandle | None = None

    def value(self) -> Tensor:
        """Return the penalty of the present scores, differentiable in them; also during the warm-up."""
        return (
            self._penalty / len(self._layers) * torch.stack([own.score.abs() for own in self._layers]).sum()
        )

    def attach(self, optimizer: Optimizer, model: nn.Module) -> None:
        """Hook into the optimizer's steps."""
        self._handle = optimizer.register_step_pre_hook(self._before_step)

    def before_epoch(self, epoch: int) -> None:
        """Begin to count once the warm-up is over."""
        self._is_on = epoch >= self._warmup_epochs

    def after_epoch(self, epoch: int, model: nn.Module, validation: Evaluation | None) -> dict[str, Any]:
        """Return the penalty and how many layers are changed, for the record."""
        changed = sum(layer.is_changed for layer in self._layers)
        return {"score_penalty": float(self.value().detach()), "changed_layers": changed}

    def state(self) -> TrainingState:
        """Return nothing: scores are the model's, and the epoch says whether the penalty counts."""
        return TrainingState({}, {})

    def restore(self, state: TrainingState) -> None:
        """Do nothing."""

    def detach(self) -> None:
        """Take the hook away."""
        if self._handle is not None:
            self._handle.remove()

    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self._is_on:
            return
        for layer in self._layers:
            pull = self._penalty / len(self._layers) * layer.score.sign()
            layer.score.grad = pull if layer.score.grad is None else layer.score.grad + pull


class _Step(torch.autograd.Function):
    """1 from the threshold on, else 0; the gradient passes as if it were the score itself."""

    @staticmethod
    def forward(context: Any, score: Tensor, threshold: float) -> Tensor:
        return (score >= threshold).to(score.dtype)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def _weights(layer: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(layer.named_parameters(recurse=False))


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    owner, _, name = path.rpartition(".")
    setattr(model.get_submodule(owner), name, module.train(model.training))
