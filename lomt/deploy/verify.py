"""The proof that an ONNX file computes what the PyTorch model does, output by output and by name."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from lomt.deploy.inference_copy import inference_copy, task_outputs
from lomt.deploy.onnx_model import OnnxModel
from lomt.errors import ExportMismatchError

__all__ = ["OutputCheck", "Verification", "verify_onnx"]

DEFAULT_TOLERANCE: Final = 1e-4
_ABSOLUTE_TOLERANCE: Final = 1e-6


@dataclass(frozen=True)
class OutputCheck:
    """One output at one batch size against PyTorch.

    Attributes:
        output: Name of the output, a task.
        batch: Number of images.
        shape: Shape in the file's answer.
        dtype: NumPy name of its type.
        max_abs: Largest absolute difference; infinite when shapes or types differ or a number is not finite.
        max_rel: ``max_abs`` as a share of the output's scale, the largest absolute value PyTorch gives.
        passed: Whether the output is as it should be.
        reason: Why not, for a reader; empty when passed.
    """

    output: str
    batch: int
    shape: tuple[int, ...]
    dtype: str
    max_abs: float
    max_rel: float
    passed: bool
    reason: str = ""


@dataclass(frozen=True)
class Verification:
    """All checks of one file; see :func:`verify_onnx`."""

    checks: tuple[OutputCheck, ...]
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether every output passed at every batch size."""
        return all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values; differences that are infinite become ``None``."""
        checks = [_finite_or_none(asdict(check)) for check in self.checks]
        return {"passed": self.passed, "tolerance": self.tolerance, "checks": checks}

    def __str__(self) -> str:
        width = max(len(check.output) for check in self.checks)
        lines = [f"{'output':{width}}  batch  max abs   max rel   tolerance {self.tolerance:g} of the scale"]
        for check in self.checks:
            numbers = f"{check.batch:5d}  {check.max_abs:.2e}  {check.max_rel:.2e}"
            lines.append(f"{check.output:{width}}  {numbers}  {'same' if check.passed else check.reason}")
        return "\n".join(lines)


def verify_onnx(
    model: nn.Module,
    path: Path,
    samples: Float[Tensor, "samples channels height width"],
    *,
    tasks: Sequence[str] | None = None,
    batch_sizes: Sequence[int] = (1, 3),
    tolerance: float = DEFAULT_TOLERANCE,
) -> Verification:
    r"""Compare every named output of an ONNX file with the model, at several batch sizes.

    An output passes when name, shape and type are right and

    .. math:: \max_i |y_i - r_i| \le 10^{-6} + \text{tolerance} \cdot \max_i |r_i|

    where :math:`y` is the file's and :math:`r` PyTorch's answer (float32, CPU, evaluation mode). The
    difference is measured on the scale of the whole output: single numbers near zero, where rounding of
    large terms shows, do not fail it. Numbers that are not finite always do.

    Args:
        model: What was exported; it is left as it was, on its device and in its mode.
        path: The ONNX file.
        samples: Images of the size the file was exported for, all different, best real ones.
        tasks: The outputs the file must have, in order; by default all of the model's.
        batch_sizes: At least two different sizes, none larger than the number of samples.
        tolerance: Allowed difference as a share of the output's scale.

    Raises:
        ExportMismatchError: An output is missing, unexpected or different; with its name, batch and numbers.
        ValueError: ``batch_sizes`` or ``tolerance`` cannot be used.
    """
    _check_arguments(len(samples), batch_sizes, tolerance)
    network = OnnxModel(path)
    reference = inference_copy(model)
    images = samples.detach().to("cpu").float()
    checks: list[OutputCheck] = []
    for batch in batch_sizes:
        expected = {name: value.numpy() for name, value in task_outputs(reference, images[:batch]).items()}
        names = list(expected if tasks is None else tasks)
        _check_names(network, names, known=list(expected))
        answers = _answers(network, images[:batch].numpy())
        checks += [_check_output(name, batch, answers[name], expected[name], tolerance) for name in names]
    verification = Verification(tuple(checks), tolerance)
    if not verification.passed:
        raise ExportMismatchError(_mismatch(Path(path), verification))
    return verification


def _check_arguments(samples: int, batch_sizes: Sequence[int], tolerance: float) -> None:
    if len(set(batch_sizes)) < 2 or min(batch_sizes) < 1:
        raise ValueError(
            f"Expected `batch_sizes` to be two or more different sizes from 1, but got {tuple(batch_sizes)}."
        )
    if samples < max(batch_sizes):
        raise ValueError(
            f"Expected at least {max(batch_sizes)} `samples` for the batch sizes {tuple(batch_sizes)}, "
            f"but got {samples}."
        )
    if not 0 < tolerance < 1:
        raise ValueError(f"Expected `tolerance` to lie between 0 and 1, but got {tolerance}.")


def _check_names(network: OnnxModel, expected: Sequence[str], known: Sequence[str]) -> None:
    if list(network.outputs) != list(expected) or not set(expected) <= set(known):
        raise ExportMismatchError(
            f"Expected the outputs of `{network.path}` to be {', '.join(expected)}, in this order, from a "
            f"model with {', '.join(known)}, but got {', '.join(network.outputs)}. Export it again."
        )


def _answers(network: OnnxModel, images: np.ndarray) -> dict[str, np.ndarray]:
    try:
        return network(images)
    except ValueError:
        raise
    except Exception as error:  # onnxruntime has no common error class
        raise ExportMismatchError(
            f"Expected `{network.path}` to run at batch {len(images)}, but got: {error}"
        ) from error


def _check_output(
    name: str, batch: int, answer: np.ndarray, expected: np.ndarray, tolerance: float
) -> OutputCheck:
    def check(max_abs: float, max_rel: float, reason: str) -> OutputCheck:
        return OutputCheck(name, batch, answer.shape, str(answer.dtype), max_abs, max_rel, not reason, reason)

    if answer.shape != expected.shape:
        return check(np.inf, np.inf, f"expected shape {expected.shape}, got {answer.shape}")
    if answer.dtype != expected.dtype:
        return check(np.inf, np.inf, f"expected type {expected.dtype}, got {answer.dtype}")
    for source, values in (("the file", answer), ("PyTorch", expected)):
        if not np.isfinite(values).all():
            return check(np.inf, np.inf, f"{source} gives numbers that are not finite")
    difference = answer.astype(np.float64) - expected.astype(np.float64)
    max_abs = float(np.abs(difference).max(initial=0.0))
    scale = float(np.abs(expected).max(initial=0.0))
    max_rel = max_abs / scale if scale > 0 else (0.0 if max_abs == 0 else float("inf"))
    if max_abs <= _ABSOLUTE_TOLERANCE + tolerance * scale:
        return check(max_abs, max_rel, "")
    return check(
        max_abs, max_rel, f"largest difference {max_abs:.3g}, {max_rel:.3g} of the scale {scale:.3g}"
    )


def _mismatch(path: Path, verification: Verification) -> str:
    failed = [check for check in verification.checks if not check.passed]
    lines = [f"output `{check.output}`, batch {check.batch}: {check.reason}" for check in failed]
    summary = (
        f"Expected `{path}` to compute what the model does (tolerance {verification.tolerance:g} of each "
        f"output's scale), but {len(failed)} of {len(verification.checks)} checks failed. Export it again."
    )
    return "\n  ".join([summary, *lines])


def _finite_or_none(values: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value
        for key, value in plain.items()
    }
