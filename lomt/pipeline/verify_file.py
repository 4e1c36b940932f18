"""An ONNX file against the model that it should hold: facts, values and task metrics."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lomt.deploy import OnnxModel, Verification
from lomt.deploy.deployed_network import DeployedNetwork
from lomt.deploy.file_facts import expected_interface, false_facts
from lomt.deploy.inference_copy import inference_copy, task_outputs
from lomt.deploy.verify import verify_deployed
from lomt.errors import ArtifactError, ExportMismatchError
from lomt.pipeline.model_source import ModelSource
from lomt.pipeline.onnx_quality import Results, metric_differences, metric_sizes, onnx_metrics

__all__ = ["FileVerification", "verify_file"]


@dataclass(frozen=True)
class FileVerification:
    """What was found in a file.

    Args:
        path: Of the file.
        source: What it was compared with.
        problems: What is wrong, a sentence each; empty where the file is right.
        values: Answers against PyTorch's; ``None`` where the file does not run or has other outputs.
        metrics: Of the file, by task; empty where there are no data.
    """

    path: Path
    source: str
    problems: tuple[str, ...]
    values: Verification | None
    metrics: Results

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values, in the form of a run's ``verification.json``."""
        own = {
            "against": self.source,
            "problems": list(self.problems),
            "values": None if self.values is None else self.values.to_dict(),
            "metrics": {task: dict(found) for task, found in self.metrics.items()},
        }
        return {"passed": self.passed, "files": {self.path.name: own}}


def verify_file(path: Path, source: ModelSource) -> FileVerification:
    """Compare a file with a model; see :class:`FileVerification`.

    Names, shapes, types and values of all outputs at batch 1, 3 and 8, and at a second image size where the file leaves
    that open; what the metadata say of weights and preparation; task metrics where the model is a run's.

    Args:
        path: The ONNX file.
        source: The model.

    Raises:
        ArtifactError: There is no such file.
    """
    if not path.is_file():
        raise ArtifactError(f"Expected `{path}` to be an ONNX file, but there is none. Export it first.")
    try:
        return _compared(path, source)
    except (ArtifactError, ExportMismatchError) as error:
        return FileVerification(path, source.name, (str(error),), None, {})


def _compared(path: Path, source: ModelSource) -> FileVerification:
    network = OnnxModel(path)
    known = source.interface.preprocessing
    problems = false_facts(network.metadata, source.model, known, network.outputs)
    interface = expected_interface(network.metadata, known)
    reference = inference_copy(source.model)
    images = source.file_images(interface)
    tasks = list(task_outputs(reference, images[:1]))
    if unknown := [name for name in network.outputs if name not in tasks]:
        raise ExportMismatchError(
            f"Expected the outputs of `{path}` to be among {', '.join(tasks)}, but got {', '.join(unknown)}. "
            "Export it again."
        )
    deployed = DeployedNetwork(reference, network.outputs, interface).eval()
    values = verify_deployed(deployed, path, images)
    problems += [
        f"output `{check.output}`, batch {check.batch}, {check.size[0]}x{check.size[1]}: {check.reason}"
        for check in values.checks
        if not check.passed
    ]
    metrics: Results = {}
    if source.parts is not None:
        metrics = onnx_metrics(source.parts, path, interface)
        problems += metric_differences(path.name, metrics, source.metrics, metric_sizes(source.parts))
    return FileVerification(path, source.name, tuple(problems), values, metrics)
