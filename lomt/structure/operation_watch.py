"""Something that sees every operation of a running network, and may carry it out in another way."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["OperationWatch"]


class OperationWatch(TorchDispatchMode):
    """A context in which every ATen operation goes through :meth:`carry_out`.

    Of several contexts inside each other the innermost sees an operation first; what it carries out goes to the next.
    """

    @abstractmethod
    def carry_out(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what an operation returns.

        Args:
            func: The operation.
            args: Its arguments by position.
            kwargs: Its arguments by name.
        """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch loads its compiler on the first operation, which takes seconds

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return self.carry_out(func, args, dict(kwargs or {}))
