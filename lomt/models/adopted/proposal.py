"""What a recipe says of an adopted model, proposed from the model itself."""

from collections.abc import Mapping
from typing import Any

import yaml

from lomt.models.adopted.adoption import Adoption
from lomt.models.adopted.split import inputs

__all__ = ["describe", "recipe_block"]


def recipe_block(
    adoption: Adoption,
    factory: str,
    *,
    kwargs: Mapping[str, Any] | None = None,
    weights: str | None = None,
    outputs: Mapping[str, str] | None = None,
) -> str:
    """Return the recipe's block ``model`` as YAML, ready to be pasted.

    Args:
        adoption: The model taken apart.
        factory: What built it.
        kwargs: The factory's keyword arguments.
        weights: The file its weights came from.
        outputs: Where the tasks' predictions are, as it was given.
    """
    model: dict[str, Any] = {"factory": factory}
    model |= {"factory_options": dict(kwargs)} if kwargs else {}
    model |= {"weights": weights} if weights else {}
    model |= {"inputs": list(adoption.inputs[1:])} if adoption.inputs[1:] and _are_maps(adoption) else {}
    model["backbone"] = _shortest(adoption.backbone)
    model |= {"outputs": dict(outputs)} if outputs else {}
    model["decoders"] = {task: _shortest(paths) for task, paths in adoption.decoders.items() if paths}
    return yaml.safe_dump(
        {"model": model}, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
    )


def describe(adoption: Adoption) -> dict[str, Any]:
    """Return what was found as plain JSON values: parts with their parameters, what decoders read, candidate layers."""
    sizes = {name: own.numel() for name, own in adoption.model.named_parameters()}
    mode = adoption.modes[False]
    return {
        "inputs": list(adoption.inputs),
        "inputs_are_maps": _are_maps(adoption),
        "backbone": {"modules": list(adoption.backbone), "params": _params(sizes, adoption.backbone)},
        "decoders": {
            task: {
                "modules": list(paths),
                "params": _params(sizes, paths),
                "reads": list(adoption.layers_read(task)),
                "prediction": list(mode.trace.values[mode.split.answers[task]].shape[1:]),
            }
            for task, paths in adoption.decoders.items()
        },
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "channels": layer.channels,
                "reduction": layer.reduction,
                "params": layer.params,
                "macs": layer.macs,
            }
            for layer in adoption.layers
            if layer.kind != "conv"
        ],
        "not_looked_into": dict(adoption.closed),
    }


def _are_maps(adoption: Adoption) -> bool:
    """Say whether all inputs are as high and wide as the images, as recipes give them."""
    trace = adoption.modes[False].trace
    shapes = [tuple(trace.values[node].shape) for node in inputs(trace)]
    return all(len(shape) == 4 and shape[2:] == shapes[0][2:] for shape in shapes)


def _shortest(names: tuple[str, ...]) -> str | list[str]:
    return names[0] if len(names) == 1 else list(names)


def _params(sizes: Mapping[str, int], modules: tuple[str, ...]) -> int:
    return sum(
        size for name, size in sizes.items() if any(f"{name}.".startswith(f"{own}.") for own in modules)
    )
