"""The proof that an ONNX file computes what the PyTorch model does, output by output and by name."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lomt.deploy.deployed_network import DeployedNetwork
from lomt.deploy.image_sizes import Size, at_size, other_size
from lomt.deploy.inference_copy import inference_copy, task_outputs
from lomt.deploy.interface import Interface
from lomt.deploy.onnx_model import OnnxModel
from lomt.errors import ArtifactError, ExportMismatchError

__all__ = ["BATCH_SIZES", "OutputCheck", "Verification", "require_same", "verify_deployed", "verify_onnx"]

BATCH_SIZES: Final = (1, 3, 8)
DEFAULT_TOLERANCE: Final = 1e-4
_ABSOLUTE_TOLERANCE: Final = 1e-6
_DIFFERENT_LABELS: Final = 1e-3
"""Share of labels that may differ: rounding decides where two logits are all but equal."""
_NO_INTERFACE: Final = Interface()


@dataclass(frozen=True)
class OutputCheck:
    """One output at one batch size against PyTorch.

    Attributes:
        output: Name of the output, a task.
        batch: Number of images.
        size: Their height and width.
        shape: Shape in the file's answer.
        dtype: NumPy name of its type.
        max_abs: Largest absolute difference; infinite when shapes or types differ or a number is not finite.
        max_rel: ``max_abs`` as a share of the output's scale, the largest absolute value PyTorch gives.
        passed: Whether the output is as it should be.
        reason: Why not, for a reader; empty when passed.
    """

    output: str
    batch: int
    size: tuple[int, int]
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
        """Whether every output passed at every batch size and image size."""
        return all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values; differences that are infinite become ``None``."""
        checks = [_finite_or_none(asdict(check)) for check in self.checks]
        return {"passed": self.passed, "tolerance": self.tolerance, "checks": checks}

    def __str__(self) -> str:
        width = max(len(check.output) for check in self.checks)
        lines = [
            f"{'output':{width}}  batch  {'image':>9}  max abs   max rel   tolerance {self.tolerance:g} of the scale"
        ]
        for check in self.checks:
            image = "x".join(map(str, check.size))
            numbers = f"{check.batch:5d}  {image:>9}  {check.max_abs:.2e}  {check.max_rel:.2e}"
            lines.append(f"{check.output:{width}}  {numbers}  {'same' if check.passed else check.reason}")
        return "\n".join(lines)


def verify_onnx(
    model: nn.Module,
    path: Path,
    samples: Float[Tensor, "samples channels height width"],
    *,
    tasks: Sequence[str] | None = None,
    interface: Interface = _NO_INTERFACE,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    tolerance: float = DEFAULT_TOLERANCE,
) -> Verification:
    r"""Compare every named output of an ONNX file with the model, at several batch sizes and image sizes.

    An output passes when name, shape and type are right and

    .. math:: \max_i |y_i - r_i| \le 10^{-6} + \text{tolerance} \cdot \max_i |r_i|

    where :math:`y` is the file's and :math:`r` PyTorch's answer (float32, CPU, evaluation mode). The
    difference is measured on the scale of the whole output: single numbers near zero, where rounding of
    large terms shows, do not fail it. Numbers that are not finite always do. Of labels one in a thousand may
    differ. Where the file leaves height and width open, a second image size is compared as well; a file for one
    batch size is compared at that one.

    Args:
        model: What was exported; it is left as it was, on its device and in its mode.
        path: The ONNX file.
        samples: Images of the size the file was exported for, all different, best real ones.
        tasks: The outputs the file must have, in order; by default all of the model's.
        interface: What is baked into the file.
        batch_sizes: At least two different sizes, none larger than the number of samples.
        tolerance: Allowed difference as a share of the output's scale.

    Raises:
        ExportMismatchError: The file is damaged, or an output is missing, unexpected or different; with its name,
            batch and numbers.
        ArtifactError: There is no such file.
        ValueError: ``batch_sizes`` or ``tolerance`` cannot be used.
    """
    _check_arguments(len(samples), batch_sizes, tolerance)
    reference = inference_copy(model)
    images = samples.detach().to("cpu").float()
    known = list(task_outputs(reference, images[:1]))
    names = known if tasks is None else list(tasks)
    _check_names(_open(Path(path)), Path(path), names, known)
    deployed = DeployedNetwork(reference, names, interface).eval()
    found = verify_deployed(deployed, path, images, batch_sizes=batch_sizes, tolerance=tolerance)
    return require_same(Path(path), found)


def verify_deployed(
    deployed: DeployedNetwork,
    path: Path,
    samples: Float[Tensor, "samples channels height width"],
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    tolerance: float = DEFAULT_TOLERANCE,
    shown: Path | None = None,
) -> Verification:
    """Compare a file with the network that it should hold; see :func:`verify_onnx`.

    Args:
        deployed: In eval mode, float32, on the CPU.
        path: The ONNX file.
        samples: As the file takes them.
        batch_sizes: None larger than the number of samples.
        tolerance: As in :func:`verify_onnx`.
        shown: What messages call the file.

    Returns:
        All comparisons, those that failed as well.

    Raises:
        ExportMismatchError: The file is damaged, has other outputs, or does not run.
    """
    shown = shown or Path(path)
    network = _open(Path(path), shown)
    _check_names(network, shown, deployed.names, deployed.names)
    sizes: list[Size] = [(samples.shape[2], samples.shape[3])]
    if network.input_shape[1:] == (None, None):
        sizes.append(other_size(*sizes[0]))
    checks: list[OutputCheck] = []
    batches = tuple(batch_sizes) if network.batch_size is None else (network.batch_size,)
    for size in sizes:
        # Answers come from the samples themselves, in as many images as the file asks for.
        images = at_size(samples[[number % len(samples) for number in range(max(batches))]], size)
        for batch, expected in _references(deployed, images, batches).items():
            answers = _answers(network, shown, images[:batch].numpy())
            checks += [
                _check_output(name, size, answers[name], expected[name], tolerance, batch)
                for name in expected
            ]
    return Verification(tuple(checks), tolerance)


def require_same(path: Path, verification: Verification) -> Verification:
    """Return a verification that passed.

    Raises:
        ExportMismatchError: It did not.
    """
    if not verification.passed:
        raise ExportMismatchError(_mismatch(Path(path), verification))
    return verification


def _open(path: Path, shown: Path | None = None) -> OnnxModel:
    try:
        return OnnxModel(
            path, threads=torch.get_num_threads()
        )  # as many as the model that it is compared with
    except ArtifactError as error:
        if not path.is_file():
            raise
        raise ExportMismatchError(str(error).replace(str(path), str(shown or path))) from error


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


def _check_names(network: OnnxModel, path: Path, expected: Sequence[str], known: Sequence[str]) -> None:
    if list(network.outputs) != list(expected) or not set(expected) <= set(known):
        raise ExportMismatchError(
            f"Expected the outputs of `{path}` to be {', '.join(expected)}, in this order, from a "
            f"model with {', '.join(known)}, but got {', '.join(network.outputs)}. Export it again."
        )


def _references(
    deployed: DeployedNetwork, images: Tensor, batches: Sequence[int]
) -> dict[int, dict[str, np.ndarray]]:
    """Return the network's answers at each batch size, on the first images.

    It is run at the smallest and at the largest; what lies between is part of the largest where the smallest is, for
    then each image is answered by itself.
    """

    def run(batch: int) -> dict[str, np.ndarray]:
        """Run the network on the first images."""
        return {name: value.numpy() for name, value in deployed.by_name(images[:batch]).items()}

    ends = {batch: run(batch) for batch in {min(batches), max(batches)}}
    small, large = ends[min(batches)], ends[max(batches)]
    is_apart = all(
        len(large[name]) == max(batches) and np.allclose(own, large[name][: len(own)], rtol=1e-3, atol=1e-5)
        for name, own in small.items()
    )
    return {
        batch: ends[batch]
        if batch in ends
        else ({name: value[:batch] for name, value in large.items()} if is_apart else run(batch))
        for batch in batches
    }


def _answers(network: OnnxModel, path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    try:
        return network(images)
    except Exception as error:  # onnxruntime has no common error class
        raise ExportMismatchError(
            f"Expected `{path}` to run at batch {len(images)} and {images.shape[2]}x{images.shape[3]}, but got: "
            f"{error}"
        ) from error


def _check_output(
    name: str, size: Size, answer: np.ndarray, expected: np.ndarray, tolerance: float, batch: int
) -> OutputCheck:
    def check(max_abs: float, max_rel: float, reason: str) -> OutputCheck:
        facts = (answer.shape, str(answer.dtype), max_abs, max_rel)
        return OutputCheck(name, batch, size, *facts, not reason, reason)

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
    if np.issubdtype(expected.dtype, np.integer):
        different = float(np.mean(answer != expected)) if expected.size else 0.0
        is_same = different <= _DIFFERENT_LABELS
        return check(max_abs, max_rel, "" if is_same else f"{different:.2%} of the labels differ")
    if max_abs <= _ABSOLUTE_TOLERANCE + tolerance * scale:
        return check(max_abs, max_rel, "")
    return check(
        max_abs, max_rel, f"largest difference {max_abs:.3g}, {max_rel:.3g} of the scale {scale:.3g}"
    )


def _mismatch(path: Path, verification: Verification) -> str:
    failed = [check for check in verification.checks if not check.passed]
    lines = [
        f"output `{check.output}`, batch {check.batch}, {check.size[0]}x{check.size[1]}: {check.reason}"
        for check in failed
    ]
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
