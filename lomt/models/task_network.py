"""What all multitask networks have in common: a backbone, a decoder a task, and a layer where each task leaves it."""

from typing import Any, ClassVar

from torch import nn

from lomt.errors import UnknownNameError

__all__ = ["TaskNetwork"]


class TaskNetwork(nn.Module):
    """A network with a ``backbone`` that the tasks share and ``decoders`` by task."""

    factory: ClassVar[str]
    """What builds such a network from its ``spec.to_dict()``, see :class:`lomt.models.factory.Factory`."""

    spec: Any
    backbone: nn.Module
    decoders: nn.ModuleDict

    @property
    def branch_points(self) -> dict[str, str]:
        """The deepest layer that each task's decoder reads."""
        return dict(self.spec.branch_points)

    def component_of(self, parameter_name: str) -> str:
        """Say to which part a parameter, buffer or module belongs.

        Args:
            parameter_name: Dotted name, as in ``named_parameters()``.

        Returns:
            ``"backbone"`` or the name of a task.

        Raises:
            UnknownNameError: The name is in no part.
        """
        part, _, rest = parameter_name.partition(".")
        if part == "backbone":
            return part
        task = rest.partition(".")[0]
        if part == "decoders" and task in self.decoders:
            return task
        raise UnknownNameError("parameter", parameter_name, dict(self.named_parameters()))
