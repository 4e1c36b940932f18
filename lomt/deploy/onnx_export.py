"""From a model to verified ONNX files whose outputs carry the task names: one for all tasks, or one for each."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lomt import __version__
from lomt.atomic_file import write_atomically
from lomt.deploy.deployed_network import DeployedNetwork
from lomt.deploy.inference_copy import inference_copy, task_outputs
from lomt.deploy.interface import Interface
from lomt.deploy.onnx_graph import set_metadata
from lomt.deploy.onnx_trace import INPUT_NAME, Traced, trace_onnx
from lomt.deploy.task_graph import keep_outputs
from lomt.deploy.verify import BATCH_SIZES, Verification, require_same, verify_deployed
from lomt.deploy.weights_hash import weights_sha256
from lomt.errors import ArtifactError, ExportMismatchError, UnknownNameError

__all__ = ["INPUT_NAME", "ExportedFile", "export_files", "export_onnx"]

_LEAST_OPSET = 18
_MOST_BYTES = 2**31 - 1
_METADATA_PREFIX = "lomt."
_NO_INTERFACE = Interface()


@dataclass(frozen=True)
class ExportedFile:
    """One file that was written.

    Args:
        path: Where.
        tasks: Its outputs, in order.
        reason: Why its height and width are fixed; empty where they are open.
        verification: Against PyTorch; ``None`` where it was not asked for.
        further: What the further check returned.
    """

    path: Path
    tasks: tuple[str, ...]
    reason: str
    verification: Verification | None
    further: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything but the place as plain JSON values."""
        checked = None if self.verification is None else self.verification.to_dict()
        own = {"tasks": list(self.tasks), "fixed_size_because": self.reason, "values": checked}
        return own if self.further is None else {**own, "metrics": dict(self.further)}


def export_onnx(
    model: nn.Module,
    example_inputs: Float[Tensor, "batch channels height width"],
    path: str | Path,
    tasks: Sequence[str] | None = None,
    **settings: Any,
) -> Path:
    """Write a model as one verified ONNX file; see :func:`export_files` for everything that can be said of it.

    Example:
        >>> import tempfile, torch, lomt
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = lomt.export_onnx(model, torch.rand(1, 3, 32, 32), f"{folder}/model.onnx")
        ...     path.stat().st_size < 10_000
        True

    Args:
        model: As in :func:`export_files`.
        example_inputs: As in :func:`export_files`.
        path: Where the file goes; its folder exists.
        tasks: Which tasks, in which order; by default all, in the model's order.
        settings: Further arguments of :func:`export_files`.

    Returns:
        The path of the file.

    Raises:
        LomtError: As in :func:`export_files`.
    """
    (exported,) = export_files(model, example_inputs, {Path(path): tasks}, **settings)
    return exported.path


def export_files(
    model: nn.Module,
    example_inputs: Float[Tensor, "batch channels height width"],
    files: Mapping[Path, Sequence[str] | None],
    *,
    opset: int = _LEAST_OPSET,
    interface: Interface = _NO_INTERFACE,
    fixed_batch: bool = False,
    fixed_size: bool = False,
    metadata: Mapping[str, str] | None = None,
    samples: Float[Tensor, "samples channels height width"] | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    verify: bool = True,
    further_check: Callable[[Path, Path], Mapping[str, Any]] | None = None,
) -> tuple[ExportedFile, ...]:
    """Write a model as float32 ONNX files with named outputs, tracing it once.

    The outputs of a file stand in the order of its tasks and bear the task names, whatever the order in which
    the model returns them; what only other tasks need is not in the file. Subnormal weights become zero in the
    file. Batch, height and width are open: the last two where the model runs on another image size, the exporter
    finds nothing that fixes them, and the file answers there as the model does; otherwise they are those of the
    example, and the reason stands in the result, in the log and in the metadata. A file appears under its
    name only when it is complete and verified; until then, and when anything fails, an earlier file of that name
    stays as it was.

    The metadata say what a file is, in entries that begin with ``lomt.``: ``version``, ``torch``, ``opset``,
    ``weights_sha256`` (:func:`lomt.deploy.weights_hash.weights_sha256` of the model), ``tasks`` (a JSON list),
    ``input`` (JSON: example shape, open axes, reason), and what :class:`~lomt.deploy.interface.Interface` tells.

    Args:
        model: Module from images to tensors, best a dictionary of task name → tensor; may be on any device, in any
            floating type and in training mode, and is left exactly so.
        example_inputs: Images of the size that the network is to be used with, as the file takes them; the batch size
            matters only with ``fixed_batch``.
        files: The tasks of each file; ``None`` for all, in the model's order. The folders exist.
        opset: Version of the ONNX operator set, at least 18.
        interface: What images and answers are; baked into the file as far as it says so.
        fixed_batch: Whether the files take the example's batch size and no other.
        fixed_size: Whether the files take the example's height and width and no other.
        metadata: Further entries for the metadata.
        samples: Images to verify with, as the file takes them, best real ones and as many as the largest of
            ``batch_sizes``; random ones like the example by default.
        batch_sizes: Batch sizes at which answers are compared.
        verify: Whether to compare the files with PyTorch.
        further_check: Called with each file before it has its name, and with the path that it will have; raises
            ExportMismatchError where the file is not as it should be, and returns what is to be kept, such as metrics.

    Raises:
        ValueError: An argument cannot be used.
        UnknownNameError: The model has no task of a name given.
        TypeError: The model does not return tensors.
        UnsupportedLayerError: The exporter cannot express the model.
        ExportMismatchError: A file does not compute what the model does.
        ArtifactError: The network is too large for one file.
    """
    _check_arguments(example_inputs, opset, files)
    given = _check_metadata(metadata or {})
    reference = inference_copy(model)
    images = example_inputs.detach().to("cpu", torch.float32)
    images = images if fixed_batch else images[:1]
    known = tuple(task_outputs(reference, images))
    wanted = {path: _task_names(known, tasks) for path, tasks in files.items()}
    _check_interface(interface, known)
    names = [name for name in known if any(name in own for own in wanted.values())]
    deployed = DeployedNetwork(reference, names, interface).eval()
    trace = _Tracing(deployed, images, opset, fixed_batch)
    traced = trace("it was asked for" if fixed_size else "")
    facts = {
        **given,
        "lomt.version": __version__,
        "lomt.torch": torch.__version__,
        "lomt.opset": str(opset),
        "lomt.weights_sha256": weights_sha256(model),
    }
    tried = _like(images, batch_sizes) if samples is None else samples.detach().cpu().float()
    job = _Job(reference, interface, facts, images, tried, further_check)
    sizes = tuple(batch_sizes) if not fixed_batch else (len(images),)
    done = []
    for path, own in wanted.items():
        try:
            done.append(job.write(path, own, traced, sizes if verify else ()))
        except ExportMismatchError as mismatch:
            if not traced.has_open_size:
                raise
            traced = trace(f"open sizes were tried: {_line(mismatch)}")
            done.append(job.write(path, own, traced, sizes if verify else ()))
    return tuple(done)


@dataclass(frozen=True)
class _Tracing:
    """Map from the reason to fix height and width to the traced network."""

    deployed: DeployedNetwork
    images: Tensor
    opset: int
    fixed_batch: bool

    def __call__(self, reason: str) -> Traced:
        return trace_onnx(
            self.deployed, self.images, self.opset, fixed_batch=self.fixed_batch, fixed_size=reason
        )


@dataclass(frozen=True)
class _Job:
    """What all files of one export share."""

    reference: nn.Module
    interface: Interface
    facts: Mapping[str, str]
    images: Tensor
    samples: Tensor
    further_check: Callable[[Path, Path], Mapping[str, Any]] | None

    def write(
        self, path: Path, names: Sequence[str], traced: Traced, batch_sizes: Sequence[int]
    ) -> ExportedFile:
        """Write one file under another name, verify it if there are batch sizes, and put it in its place."""
        network = keep_outputs(traced.network, names)
        set_metadata(network, {**self.facts, **self._metadata(names, traced)})
        deployed = DeployedNetwork(self.reference, names, self.interface).eval()

        def write(partial: Path) -> ExportedFile:
            """Write and verify the file."""
            _write(network, partial)
            found = None
            if batch_sizes:
                found = verify_deployed(deployed, partial, self.samples, batch_sizes=batch_sizes, shown=path)
                require_same(path, found)
            further = None if self.further_check is None else self.further_check(partial, path)
            return ExportedFile(path, tuple(names), traced.reason, found, further)

        return write_atomically(path, write)

    def _metadata(self, names: Sequence[str], traced: Traced) -> dict[str, str]:
        sizes = traced.network.graph.input[0].type.tensor_type.shape.dim
        entry = {
            "name": INPUT_NAME,
            "axes": [size.dim_param or size.dim_value for size in sizes],
            "example": list(self.images.shape),
            "fixed_size_because": traced.reason,
        }
        described = self.interface.to_metadata(names)
        return {"lomt.tasks": json.dumps(list(names)), "lomt.input": json.dumps(entry), **described}


def _check_arguments(example_inputs: Tensor, opset: int, paths: Mapping[Path, Any]) -> None:
    if example_inputs.ndim != 4 or not example_inputs.is_floating_point() or 0 in example_inputs.shape:
        raise ValueError(
            "Expected `example_inputs` to be floating-point images (batch, channels, height, width), but got "
            f"{example_inputs.dtype} of shape {tuple(example_inputs.shape)}."
        )
    if opset < _LEAST_OPSET:
        raise ValueError(f"Expected `opset` to be at least {_LEAST_OPSET}, but got {opset}.")
    for path in paths:
        if not path.parent.is_dir():
            raise ValueError(
                f"Expected the folder of `path` to exist, but got `{path}`. Make the folder first."
            )


def _check_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ValueError(f"Expected `metadata` to map text to text, but got {key!r}: {value!r}.")
        if key.startswith(_METADATA_PREFIX):
            raise ValueError(
                f"Expected the keys of `metadata` not to begin with `{_METADATA_PREFIX}`, but got `{key}`. "
                "These are lomt's own."
            )
    return dict(metadata)


def _check_interface(interface: Interface, known: Sequence[str]) -> None:
    for name in [*interface.kinds, *interface.classes]:
        if name not in known:
            raise UnknownNameError("task", name, known)
    missing = [name for name in known if name not in interface.kinds]
    if interface.answer != "raw" and missing:
        raise ValueError(
            f"Expected the kind of task `{missing[0]}`, because its answer shall be {interface.answer}, but got none. "
            "Say its kind, or leave the answers raw."
        )


def _task_names(known: Sequence[str], tasks: Sequence[str] | None) -> list[str]:
    names = list(known if tasks is None else tasks)
    for name in names:
        if name not in known:
            raise UnknownNameError("task", name, known)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"Expected `tasks` to name at least one task and none twice, but got {names}.")
    for name in names:
        if name in ("", INPUT_NAME):
            raise ValueError(
                f"Expected every task to have a name, and not the input's, `{INPUT_NAME}`, but got `{name}`. "
                "Rename the task."
            )
    return names


def _like(images: Tensor, batch_sizes: Sequence[int]) -> Tensor:
    """Return random images with the mean and deviation of the example's channels, all different."""
    count = max([*batch_sizes, len(images)])
    generator = torch.Generator().manual_seed(0)
    mean, std = images.mean((0, 2, 3), keepdim=True), images.std((0, 2, 3), keepdim=True)
    drawn = torch.randn(count, *images.shape[1:], generator=generator)
    return drawn * torch.where(std > 0, std, 1.0) + mean


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _write(network: onnx.ModelProto, path: Path) -> None:
    size = sum(len(tensor.raw_data) for tensor in network.graph.initializer)
    if size > _MOST_BYTES:
        raise ArtifactError(
            f"Expected the network to fit one ONNX file of at most {_MOST_BYTES} bytes, but its weights alone have "
            f"{size} bytes."
        )
    content = network.SerializeToString(deterministic=True)
    onnx.checker.check_model(content, full_check=True)
    path.write_bytes(content)
