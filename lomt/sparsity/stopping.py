"""The path of lambdas and the rules that end a sparse run before its last epoch."""

import math
from typing import Any

__all__ = ["StoppingRules", "lambda_path"]


def lambda_path(start: float, stop: float, count: int) -> tuple[float, ...]:
    """Return `count` log-spaced values from `start` to `stop`, both exact.

    Args:
        start: First value, positive.
        stop: Last value, positive; may be below `start`.
        count: Number of values; with one it is `start`.

    Raises:
        ValueError: If an end is not positive or `count` is not.

    Example:
        >>> [round(value, 6) for value in lambda_path(1e-4, 1e-3, 4)]
        [0.0001, 0.000215, 0.000464, 0.001]
    """
    for name, value in (("start", start), ("stop", stop)):
        if not 0 < value < math.inf:
            raise ValueError(f"Expected `{name}` to be finite and above 0, but got {value}.")
    if count < 1:
        raise ValueError(f"Expected `count` to be at least 1, but got {count}.")
    if count == 1:
        return (float(start),)
    inner = [start * (stop / start) ** (i / (count - 1)) for i in range(1, count - 1)]
    return (float(start), *inner, float(stop))


class StoppingRules:
    """Decide after each check, usually an epoch, whether a sparse run has reached its end.

    As published a run ends when it is sparse enough (0.8), when its sparsity has changed by less than 0.001
    in each of 30 checks in a row, or when the validation loss has not improved for 15. The first two are
    the defaults. None switches a rule off.

    Args:
        sparsity_cap: Sparsity that is enough, 0 to 1.
        stalled_change: Change of sparsity between checks, 0 to 1, below which it counts as stalled.
        stalled_patience: Stalled checks in a row that end the run.
        loss_patience: Checks in a row without a new lowest validation loss that end the run.
        loss_tolerance: Relative rise of the validation loss above its lowest that ends the run.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> rules = StoppingRules(sparsity_cap=0.5)
        >>> rules.update(0.2), rules.update(0.6)
        (None, 'sparsity 60.0% is above the cap of 50.0%')

    References:
        The rules of the official code of Upadhyay et al., "Layer-optimized multi-task models", 2024,
        https://arxiv.org/abs/2406.03048.
    """

    def __init__(
        self,
        sparsity_cap: float | None = 0.8,
        stalled_change: float | None = 0.001,
        stalled_patience: int = 30,
        loss_patience: int | None = None,
        loss_tolerance: float | None = None,
    ) -> None:
        _check_range("sparsity_cap", sparsity_cap, 0, 1)
        _check_range("stalled_change", stalled_change, 0, 1)
        _check_range("stalled_patience", stalled_patience, 1, math.inf)
        _check_range("loss_patience", loss_patience, 1, math.inf)
        _check_range("loss_tolerance", loss_tolerance, 0, math.inf)
        self.sparsity_cap = sparsity_cap
        self.stalled_change = stalled_change
        self.stalled_patience = stalled_patience
        self.loss_patience = loss_patience
        self.loss_tolerance = loss_tolerance
        self._last_sparsity: float | None = None
        self._stalled_checks = 0
        self._lowest_loss = math.inf
        self._idle_checks = 0

    def update(self, sparsity: float, validation_loss: float | None = None) -> str | None:
        """Take in one check and tell whether to stop.

        Args:
            sparsity: Sparsity now, 0 to 1.
            validation_loss: Validation loss now; NaN is no improvement. None leaves the loss rules as they are.

        Returns:
            Why the run ends, or None if it goes on.
        """
        self._count_stalled(sparsity)
        rise = self._count_idle(validation_loss)
        if self.sparsity_cap is not None and sparsity > self.sparsity_cap:
            return f"sparsity {sparsity:.1%} is above the cap of {self.sparsity_cap:.1%}"
        if self.stalled_change is not None and self._stalled_checks >= self.stalled_patience:
            return (
                f"sparsity has changed by less than {self.stalled_change:.2%} "
                f"in each of the last {self._stalled_checks} checks"
            )
        if self.loss_patience is not None and self._idle_checks >= self.loss_patience:
            return (
                f"validation loss has not fallen below {self._lowest_loss:.4g} "
                f"in the last {self._idle_checks} checks"
            )
        if self.loss_tolerance is not None and rise > self.loss_tolerance:
            return (
                f"validation loss is {rise:.1%} above its lowest, more than the tolerance of "
                f"{self.loss_tolerance:.1%}"
            )
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return the counts and values seen so far, as plain JSON values."""
        return {
            "last_sparsity": self._last_sparsity,
            "stalled_checks": self._stalled_checks,
            "lowest_loss": None if math.isinf(self._lowest_loss) else self._lowest_loss,
            "idle_checks": self._idle_checks,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._last_sparsity = state["last_sparsity"]
        self._stalled_checks = state["stalled_checks"]
        self._lowest_loss = math.inf if state["lowest_loss"] is None else state["lowest_loss"]
        self._idle_checks = state["idle_checks"]

    def _count_stalled(self, sparsity: float) -> None:
        if self.stalled_change is not None and self._last_sparsity is not None:
            is_stalled = abs(sparsity - self._last_sparsity) < self.stalled_change
            self._stalled_checks = self._stalled_checks + 1 if is_stalled else 0
        self._last_sparsity = sparsity

    def _count_idle(self, loss: float | None) -> float:
        """Return by how much the loss lies above its lowest, relative to that."""
        if loss is None:
            return 0.0
        if loss < self._lowest_loss:
            self._lowest_loss, self._idle_checks = loss, 0
            return 0.0
        self._idle_checks += 1
        if math.isinf(self._lowest_loss):
            return math.inf
        rise = (loss - self._lowest_loss) / max(abs(self._lowest_loss), 1e-12)
        return math.inf if math.isnan(rise) else rise


def _check_range(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        bounds = f"between {low} and {high}" if high < math.inf else f"at least {low}"
        raise ValueError(f"Expected `{name}` to be {bounds} or None, but got {value}.")
