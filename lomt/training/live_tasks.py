"""Tasks that take part in training now: the decoders of the others do not run, or have left."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.optim import Optimizer

from lomt.training.own_parts import decoder_of

__all__ = ["LiveTasks"]


class LiveTasks:
    """Keeps track of which tasks a training still computes.

    A retired task's decoder leaves the model, its gradients and the optimizer's moments are dropped, and its
    weights wait
    on the CPU until `restore` puts them back, so that the network that comes out has all the parts that went in.

    Args:
        model: The network; tasks without a part under ``decoders`` are left to compute.
        optimizer: Of its parameters.
        tasks: Names.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, tasks: Collection[str]) -> None:
        self._model, self._optimizer = model, optimizer
        self._order, self._gone = tuple(tasks), dict[str, nn.Module]()
        self._devices: dict[str, object] = {}
        self.retired: frozenset[str] = frozenset()

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that are not retired, in order."""
        return tuple(task for task in self._order if task not in self.retired)

    def retire(self, tasks: Collection[str]) -> None:
        """Take the tasks' decoders out; those already gone are passed over."""
        for task in self._order:
            decoder = decoder_of(self._model, task)
            if task in tasks and task not in self.retired and decoder is not None:
                self._drop(decoder)
                self._devices[task] = next((p.device for p in decoder.parameters()), "cpu")
                del self._model.decoders[task]  # type: ignore[union-attr, operator]
                self._gone[task] = decoder.cpu()
        self.retired = self.retired | frozenset(tasks)

    def restore(self) -> None:
        """Put all decoders back, in the tasks' order."""
        if not self._gone:
            return
        decoders = self._model.decoders
        assert isinstance(decoders, nn.ModuleDict)
        kept = dict(decoders.items())
        for task, decoder in self._gone.items():
            kept[task] = decoder.to(self._devices[task])  # type: ignore[call-overload]
        decoders.clear()
        # ModuleDict.update sorts nothing; the order of predictions is that of the tasks.
        for task in sorted(kept, key=lambda name: self._order.index(name) if name in self._order else 0):
            decoders[task] = kept[task]
        self._gone.clear()
        self.retired = frozenset()

    def waiting(self) -> dict[str, Tensor]:
        """Return the weights of the decoders that are out, as ``<task>.<name>``."""
        return {f"{t}.{n}": v for t, decoder in self._gone.items() for n, v in decoder.state_dict().items()}

    def load_waiting(self, task: str, tensors: dict[str, Tensor]) -> None:
        """Take up the weights of a decoder that is out."""
        if task in self._gone:
            self._gone[task].load_state_dict(tensors)

    @contextmanager
    def only(self, tasks: Collection[str] | None) -> Iterator[tuple[str, ...]]:
        """Run only some tasks' decoders inside the context; yield those that run.

        Args:
            tasks: Names; None for all that are not retired.
        """
        live = self.tasks
        chosen = live if tasks is None else tuple(task for task in live if task in tasks)
        decoders = getattr(self._model, "decoders", None)
        if chosen == live or not isinstance(decoders, nn.ModuleDict):
            yield chosen
            return
        whole = dict(decoders._modules)
        try:
            for task in live:
                if task not in chosen and task in decoders:
                    del decoders._modules[task]
            yield chosen
        finally:
            decoders._modules.clear()
            decoders._modules.update(whole)

    def _drop(self, decoder: nn.Module) -> None:
        own = set(decoder.parameters())
        for group in self._optimizer.param_groups:
            group["params"] = [parameter for parameter in group["params"] if parameter not in own]
        for parameter in own:
            self._optimizer.state.pop(parameter, None)
            parameter.grad = None
