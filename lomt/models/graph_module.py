"""A module made of parts of another one, run by generated code."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

__all__ = ["GraphModule"]


class GraphModule(nn.Module):
    """Modules, parameters and buffers of a model under their own names, and the code of a graph for each mode.

    Copying the module copies nothing stale: the generated functions take it as their argument.
    """

    def take_over(
        self,
        model: nn.Module,
        graphs: Mapping[bool, fx.Graph],
        constants: Mapping[str, Tensor],
        memo: dict[Any, Any] | None = None,
        origins: Mapping[str, str] | None = None,
    ) -> None:
        """Copy what the graphs use, and generate their code.

        Args:
            model: Where the graphs were recorded; nothing of it is shared afterwards.
            graphs: By mode, True for training.
            constants: Tensors that the graphs know by name and the model does not have.
            memo: Of ``copy.deepcopy``, where several modules share parts.
            origins: By name in the graphs, the name in the model of what is copied by itself, shared with nothing.
        """
        memo, origins = {} if memo is None else memo, origins or {}
        for graph in graphs.values():
            for node in graph.nodes:
                if node.op == "get_attr" and node.target in constants:
                    self.register_buffer(str(node.target), constants[str(node.target)], persistent=False)
                elif node.op in ("call_module", "get_attr"):
                    path = str(node.target)
                    is_apart = path in origins
                    _take(self, path, model, origins.get(path, path), {} if is_apart else memo)
        self._run_in_mode: dict[bool, Callable[..., Any]] = {
            training: type(fx.GraphModule(self, graph)).forward for training, graph in graphs.items()
        }
        self.training = model.training

    def run(self, *inputs: Any) -> Any:
        """Run the code of the present mode."""
        return self._run_in_mode[self.training](self, *inputs)


def _take(target: nn.Module, path: str, source: nn.Module, origin: str, memo: dict[Any, Any]) -> None:
    """Copy the module, parameter or buffer at a dotted path of the source, with plain modules on the way."""
    *outer, name = path.split(".")
    for part in outer:
        if part not in target._modules:
            target.add_module(part, nn.Module())
        target = getattr(target, part)
    if name in target._modules or name in target._parameters or name in target._buffers:
        return
    owner, _, origin_name = origin.rpartition(".")
    for part in owner.split(".") if owner else ():
        source = getattr(source, part)
    value = copy.deepcopy(getattr(source, origin_name), memo)
    if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
        target.register_buffer(name, value, persistent=origin_name not in source._non_persistent_buffers_set)
    else:
        setattr(target, name, value)
