"""Group lasso: penalty and proximal step for the channel groups of a network, attached to its optimizer."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from lomt.sparsity.bunch import Bunch, Layer, LayerStep
from lomt.sparsity.prox import group_weight
from lomt.sparsity.proximal_penalty import Metric, ProximalPenalty, second_moment
from lomt.sparsity.rows import Scratch
from lomt.sparsity.threads import ThreadChoice
from lomt.structure import LayerGroups, squared_norms

__all__ = ["GroupLasso"]

# A bunch of small layers shares the cost of short operations.
_MOST_WEIGHTS = 2**20


class GroupLasso(ProximalPenalty):
    r"""Drive whole channel groups to exactly zero with a proximal step after every optimizer step.

    Minimises :math:`L + \lambda \sum_g \sqrt{n_g} \lVert w_g \rVert_2` for the training loss :math:`L`, where
    :math:`n_g` is the size of group :math:`g`. The penalty acts through the proximal step alone and must not be
    added to the loss as well. The step's threshold is :math:`\tau = \eta\lambda\sqrt{n_g}` with the current
    learning rate :math:`\eta` of the parameter's own optimizer group.

    In the Euclidean metric the step is `group_soft_threshold`. In Adam's metric it is
    `adam_group_soft_threshold` with the denominators :math:`d` that Adam has just divided by,
    ``sqrt(exp_avg_sq / c) + eps``, of ``max_exp_avg_sq`` under AMSGrad. By default :math:`c = 1 - \beta_2^t` as
    in torch's own step, so that both halves of the proximal gradient step use one metric and :math:`\lambda`
    means the same from the first step on. The papers' code leaves the correction out, :math:`c = 1`, and with
    :math:`\beta_2 = 0.999` its first steps shrink up to 31 times as hard; `bias_correction=False` gives that.

    In Adam's metric a group is zero when :math:`\lVert d \odot w \rVert_2 \le \tau`, so one without any gradient
    goes at once. Where residual branches start with a scale of zero (timm's ``zero_init_last``) and block
    their own gradient, train a few steps before attaching, or switch that off.

    Parameters that had no gradient in a step, and steps that a gradient scaler skipped, are left alone.

    Args:
        groups: What `lomt.structure.channel_groups` lists; the parameters are changed in place.
        lambda_: Strength :math:`\lambda \ge 0`; may be set anew at any time.
        metric: ``"euclidean"`` for any optimizer, ``"adam"`` for torch's Adam and AdamW.
        bias_correction: Whether Adam's metric is bias-corrected.

    Raises:
        ValueError: If there are no groups or `lambda_` is negative or not finite.
        TypeError: If a weight is not a parameter, because it is parametrised.
        UnknownNameError: If there is no such metric.

    Example:
        >>> from torch.optim import AdamW
        >>> from lomt.structure import channel_groups
        >>> model = nn.Conv2d(3, 8, 3)
        >>> optimizer = AdamW(model.parameters())
        >>> GroupLasso(channel_groups(model), lambda_=1e-4, metric="adam").attach(optimizer)

    References:
        Upadhyay et al., "Less is More - Towards parsimonious multi-task models using structured sparsity",
        2024, https://arxiv.org/abs/2308.12114. Deleu and Bengio, "Structured Sparsity Inducing Adaptive
        Optimizers for Deep Learning", 2021, https://arxiv.org/abs/2102.03869.
    """

    def __init__(
        self,
        groups: Sequence[tuple[str, Tensor, LayerGroups]],
        lambda_: float,
        *,
        metric: Metric = "euclidean",
        bias_correction: bool = True,
    ) -> None:
        if not groups:
            raise ValueError("Expected `groups` to list at least one weight, but got none.")
        for name, parameter, _ in groups:
            if not isinstance(parameter, nn.Parameter):
                raise TypeError(
                    f"Expected `{name}` to be a parameter, but got a computed tensor. "
                    "Remove the layer's parametrization first, or leave the layer out."
                )
        super().__init__(lambda_, metric)
        self.bias_correction = bias_correction
        self._groups = tuple(groups)
        self._norms: dict[str, Tensor] = {}
        self._scratch = Scratch()
        self._threads = ThreadChoice()
        self._bunches: list[Bunch] = []

    @torch.no_grad()
    def penalty(self) -> Float[Tensor, ""]:
        r"""Return :math:`\lambda \sum_g \sqrt{n_g} \lVert w_g \rVert_2`, for logs; it has no gradient."""
        terms = [
            group_weight(groups.size)
            * squared_norms(parameter, groups.axis, groups.conv_groups).sqrt().sum(dtype=torch.float64)
            for _, parameter, groups in self._groups
        ]
        return self.lambda_ * torch.stack(terms).sum()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to go on to the last bit: lambda and where Newton starts."""
        return {"metric": self.metric, "lambda_": self.lambda_, "norms": self._known_norms()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave.

        Args:
            state: From a group lasso over the same groups with the same metric.

        Raises:
            ValueError: If the state belongs to another metric or other groups; nothing is changed then.
        """
        if state["metric"] != self.metric:
            raise ValueError(
                f"Expected `state` to be of metric `{self.metric}`, but got one of `{state['metric']}`."
            )
        own = {name: (parameter, groups.count) for name, parameter, groups in self._groups}
        for name, norms in state["norms"].items():
            if name not in own or norms.shape != (2, own[name][1]):
                here = f"has {own[name][1]} groups" if name in own else "is unknown"
                raise ValueError(
                    f"Expected `state` to be of the same channel groups, but got {norms.shape[-1]} "
                    f"norms for `{name}`, which {here} here."
                )
        self.lambda_ = state["lambda_"]
        self._bunches = []
        self._norms = {name: norms.clone() for name, norms in state["norms"].items()}

    def _parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        return ((name, cast(nn.Parameter, parameter)) for name, parameter, _ in self._groups)

    @torch.no_grad()
    def _shrink(self, optimizer: Optimizer) -> None:
        layers, steps = self._due(optimizer)
        self._prepare(layers)
        if layers and layers[0].weight.device.type == "cpu":
            self._threads.run(lambda: self._take(steps))
        else:
            self._take(steps)

    def _take(self, steps: Sequence[LayerStep]) -> None:
        take = Bunch.step_in_adam if self.metric == "adam" else Bunch.step_euclidean
        start = 0
        for bunch in self._bunches:
            take(bunch, steps[start : start + len(bunch)])
            start += len(bunch)

    def _due(self, optimizer: Optimizer) -> tuple[list[Layer], list[LayerStep]]:
        """Return the layers that the optimizer has stepped, and their part in the proximal step."""
        owner = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
        layers, steps = [], []
        for name, parameter, groups in self._groups:
            options = owner[id(parameter)]
            strength = float(options["lr"]) * self.lambda_
            if parameter.grad is None or strength == 0:
                continue
            if self.metric == "adam":
                state = optimizer.state[parameter]
                layers.append(Layer(name, parameter, groups, second_moment(name, state, options)))
                steps.append(self._step_in_adam(strength, state, options))
            else:
                layers.append(Layer(name, parameter, groups))
                steps.append(LayerStep(strength))
        return layers, steps

    def _step_in_adam(
        self, strength: float, state: Mapping[str, Any], options: Mapping[str, Any]
    ) -> LayerStep:
        beta = float(options["betas"][1]) if self.bias_correction else 0.0
        return LayerStep(strength, 1 - beta ** float(state["step"]), float(options["eps"]))

    def _prepare(self, layers: Sequence[Layer]) -> None:
        """Make bunches of these layers, unless they are the ones of the step before."""
        parts = _cut(layers)
        if len(parts) == len(self._bunches) and all(map(Bunch.holds, self._bunches, parts)):
            return
        norms = self._known_norms()
        # The largest first, so that the shared memory need not grow.
        order = sorted(range(len(parts)), key=lambda i: -_size(parts[i]))
        made = {i: Bunch(parts[i], self._scratch) for i in order}
        self._bunches = [made[i] for i in range(len(parts))]
        self._norms = norms
        for bunch in self._bunches:
            bunch.set_norms(norms)

    def _known_norms(self) -> dict[str, Tensor]:
        latest = {name: norms for bunch in self._bunches for name, norms in bunch.norms().items()}
        return {name: norms.clone() for name, norms in {**self._norms, **latest}.items()}


def _cut(layers: Sequence[Layer]) -> list[list[Layer]]:
    """Put neighbouring layers of one dtype and device together, up to a size."""
    parts: list[list[Layer]] = []
    last, size = None, 0
    for layer in layers:
        kind = (layer.weight.dtype, layer.weight.device)
        size += layer.weight.numel()
        if kind != last or size > _MOST_WEIGHTS:
            parts.append([])
            last, size = kind, layer.weight.numel()
        parts[-1].append(layer)
    return parts


def _size(layers: Sequence[Layer]) -> int:
    return sum(layer.weight.numel() for layer in layers)
