"""What a model and its example inputs have to be before anything is planned."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lomt.errors import LomtError
from lomt.structure import Inputs, named_tensors

__all__ = ["PruneError", "check_model", "check_outputs", "given_budget"]


class PruneError(LomtError, ValueError):
    """A model that cannot be pruned as asked."""


def check_model(model: nn.Module, inputs: Inputs) -> None:
    """Refuse what cannot be pruned, in words that say the way out.

    Raises:
        TypeError: The model is no module, or the inputs are no tensors.
        PruneError: There are no parameters, all are frozen or without values, a value is not finite, or the inputs
            are on another device.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"Expected `model` to be a torch.nn.Module, but got {type(model).__name__}.")
    parameters = dict(model.named_parameters())
    if not parameters:
        raise PruneError("Expected the model to have parameters, but it has none.")
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise PruneError(
            "Expected a model with parameters that may be changed, but all are frozen. "
            "Unfreeze what may be pruned: model.requires_grad_(True)."
        )
    for name, tensor in named_tensors(model).items():
        if tensor.is_meta:
            raise PruneError(
                f"Expected weights with values, but `{name}` is on device meta, which has none. "
                "Build the model on the CPU."
            )
        if tensor.is_floating_point() and not _is_sound(tensor, name in parameters):
            raise PruneError(
                f"Expected finite weights, but `{name}` holds values that are infinite or not a number."
            )
    _check_inputs(model, inputs)


def check_outputs(outputs: Mapping[str, Tensor]) -> None:
    """Refuse a model whose outputs cannot be compared, in words that say the way out.

    Args:
        outputs: What it puts out for the example inputs, by name.

    Raises:
        PruneError: A value is not finite.
    """
    for name, value in outputs.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise PruneError(
                f"Expected finite outputs for the example inputs, but output `{name}` holds values that are infinite "
                "or not a number, which cannot be compared before and after a cut. Give example inputs of the range "
                "that the model was made for, or return what is computed before such values arise."
            )


def given_budget(budgets: Mapping[str, float | None]) -> dict[str, float]:
    """Return the one budget that was given, by name, or nothing.

    Args:
        budgets: Fractions, and ``latency_ms`` in milliseconds; ``None`` where none was given.

    Raises:
        PruneError: More than one budget, or one out of range.
    """
    given = {name: value for name, value in budgets.items() if value is not None}
    if len(given) > 1:
        raise PruneError(f"Expected just one budget, but got {' and '.join(f'`{name}`' for name in given)}.")
    for name, value in given.items():
        if name == "latency_ms" and not 0 < value < math.inf:
            raise PruneError(f"Expected `latency_ms` to be above 0 ms, but got {value}.")
        if name != "latency_ms" and not 0 < value <= 1:
            raise PruneError(f"Expected `{name}` to be a fraction above 0 and at most 1, but got {value}.")
    return given


def _is_sound(tensor: Tensor, is_parameter: bool) -> bool:
    """Whether values are finite, or, in buffers, which may keep bounds that are infinite, numbers."""
    values = tensor.detach()
    if bool(torch.isfinite(values.sum())):  # tells in one pass, unless it overflows
        return True
    return bool(torch.isfinite(values).all()) if is_parameter else not bool(values.isnan().any())


def _check_inputs(model: nn.Module, inputs: Inputs) -> None:
    tensors = (
        [inputs]
        if isinstance(inputs, Tensor)
        else list(inputs.values() if isinstance(inputs, Mapping) else inputs)
    )
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise TypeError(
            "Expected `example_inputs` to be a tensor, a tuple of tensors or a dict of tensors by argument name, "
            f"but got {type(inputs).__name__}."
        )
    device = next(model.parameters()).device
    for tensor in tensors:
        if tensor.device != device:
            raise PruneError(
                f"Expected `example_inputs` on the model's device {device}, but got {tensor.device}. "
                f"Move them: example_inputs.to('{device}')."
            )
