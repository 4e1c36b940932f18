"""What penalties with a proximal step have in common: a strength, and a place after the optimizer's steps."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer
from torch.utils.hooks import RemovableHandle

from lomt.errors import UnknownNameError

__all__ = ["METRICS", "Metric", "ProximalPenalty", "second_moment", "unwrapped"]

Metric = Literal["euclidean", "adam"]
METRICS = ("euclidean", "adam")


class ProximalPenalty(ABC):
    r"""A penalty of strength :math:`\lambda` that acts through a proximal step after every optimizer step.

    Args:
        lambda_: Strength :math:`\lambda \ge 0`; may be set anew at any time.
        metric: ``"euclidean"`` for any optimizer, ``"adam"`` for torch's Adam and AdamW.
    """

    def __init__(self, lambda_: float, metric: Metric) -> None:
        if metric not in METRICS:
            raise UnknownNameError("metric", metric, METRICS)
        self.metric = metric
        self.lambda_ = lambda_
        self._handle: RemovableHandle | None = None

    @property
    def lambda_(self) -> float:
        """Strength of the penalty."""
        return self._lambda

    @lambda_.setter
    def lambda_(self, value: float) -> None:
        if not 0 <= value < math.inf:
            raise ValueError(f"Expected `lambda_` to be finite and at least 0, but got {value}.")
        self._lambda = float(value)

    @abstractmethod
    def penalty(self) -> Float[Tensor, ""]:
        """Return the penalty's value, for logs; it has no gradient."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to go on to the last bit."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""

    @abstractmethod
    def _parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Return the weights that are shrunk, with their names."""

    @abstractmethod
    def _shrink(self, optimizer: Optimizer) -> None:
        """Take one proximal step."""

    def attach(self, optimizer: Any) -> None:
        """Take a proximal step after each of the optimizer's steps from now on.

        Args:
            optimizer: A torch optimizer, or a wrapper such as accelerate's with the real one in `.optimizer`.

        Raises:
            ValueError: If this is attached already, or a parameter is not among the optimizer's.
            TypeError: If `optimizer` is not an optimizer, or not Adam where its metric is asked for.
        """
        if self._handle is not None:
            raise ValueError(
                "Expected the group lasso to be attached to no optimizer, but got a second one. "
                "Call detach() first."
            )
        inner = unwrapped(optimizer)
        self._check(inner)
        self._handle = inner.register_step_post_hook(self._after_step)

    def detach(self) -> None:
        """Take no further proximal steps; does nothing when not attached."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def step(self, optimizer: Any) -> None:
        """Take one proximal step now, with the learning rates and the state that the optimizer has.

        Args:
            optimizer: As for `attach`, which makes calling this needless.

        Raises:
            ValueError: If a parameter is not among the optimizer's, or Adam has not taken a step yet.
            TypeError: If `optimizer` is not an optimizer, or not Adam where its metric is asked for.
        """
        inner = unwrapped(optimizer)
        self._check(inner)
        self._shrink(inner)

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # A gradient scaler does not call most optimizers in steps to skip; fused ones it tells so here.
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is None or not bool(found_inf):
            self._shrink(optimizer)

    def _check(self, optimizer: Optimizer) -> None:
        if self.metric == "adam" and not isinstance(optimizer, (Adam, AdamW)):
            raise TypeError(
                f"Expected `optimizer` to be Adam or AdamW for metric `adam`, but got "
                f"{type(optimizer).__name__}, which keeps no second moments. Use metric `euclidean`."
            )
        known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        missing = [name for name, parameter in self._parameters() if id(parameter) not in known]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ValueError(
                f"Expected `optimizer` to hold every parameter of the groups, but got one without "
                f"`{missing[0]}`{more}. Give it these parameters, or leave them out of the groups."
            )


def second_moment(name: str, state: Mapping[str, Any], options: Mapping[str, Any]) -> Tensor:
    """Return the second moments that Adam divides a parameter's step by, uncorrected.

    Args:
        name: Name of the parameter.
        state: The optimizer's state of it.
        options: Its parameter group.

    Raises:
        ValueError: If there are none yet.
    """
    key = "max_exp_avg_sq" if options["amsgrad"] else "exp_avg_sq"
    if key not in state:
        raise ValueError(
            f"Expected `optimizer` to have second moments of `{name}`, but got none. "
            "Take an optimizer step before the first proximal one."
        )
    moment: Tensor = state[key]
    return moment


def unwrapped(optimizer: Any) -> Optimizer:
    """Return the optimizer whose step really runs; accelerate's wrapper is an Optimizer itself.

    Raises:
        TypeError: If there is none.
    """
    while isinstance(getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"Expected `optimizer` to be a torch optimizer, but got {type(optimizer).__name__}.")
    return optimizer
