"""What `bench_coverage.py` asks of one tool on one family, in a process of its own.

Both tools get the same network and example and pass through the same checks. No check looks at what came
before it in the process: networks that keep results of their first run are built anew.
"""

import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from families import TwoTaskModel, two_task_model
from torch import Tensor, nn

__all__ = ["EXACT_TOLERANCE", "KEPT_CHANNELS", "ONNX_TOLERANCE", "ZEROED_CHANNELS", "Row", "measure"]

KEPT_CHANNELS = 0.5
ONNX_TOLERANCE = 1e-3
EXACT_TOLERANCE = 1e-9
ZEROED_CHANNELS = 0.4

Outputs = dict[str, Tensor]
Tool = Callable[[TwoTaskModel, Tensor], nn.Module]

_NO_ONNX = "no ONNX"


@dataclass
class Row:
    """What came of one tool on one family.

    Attributes:
        status: `ok`; `ok, no ONNX` where the network cannot be exported before pruning either; `crash`, `broken`,
            `timeout`, `lossy only` or, for both tools alike, `no model`.
        reason: What is wrong, empty when `ok`.
        own_error: Of a crash: the error is one of `lomt`'s own, made for a reader.
        facts: Parameters before and after, their ratio, differences, processor seconds.
    """

    status: str = "ok"
    reason: str = ""
    own_error: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {"status": self.status, "reason": self.reason, "own_error": self.own_error, **self.facts}


class Broken(Exception):
    """The tool came back, but with something that a check refuses."""


def measure(family: str, column: str) -> Row:
    """Prune the network of a family and check what comes back."""
    row = Row()
    dtype = torch.float64 if column == "exactness" else torch.float32
    try:
        model, example = two_task_model(family)
        model, example = model.to(dtype), example.to(dtype)
        dense = _run(_twin(model, family), example)
    except Exception as error:
        return Row("no model", _first_line(error))
    start = time.process_time()
    try:
        if column == "exactness":
            check_exactness(model, example, family, row)
        else:
            check_pruning(_TOOLS[column], model, example, dense, row)
    except Broken as error:
        row.status, row.reason = "broken", str(error)
    except Exception as error:
        row.status, row.reason = "crash", _first_line(error)
        row.own_error = type(error).__module__.startswith("lomt")
        row.facts["where"] = _innermost(error)
    if row.status == "broken" and "export_seconds" not in row.facts and row.reason.startswith(_NO_ONNX):
        row.facts["dense_exports"] = _exports(family)
        if not row.facts[
            "dense_exports"
        ]:  # the exporter's limit, not the tool's: every other check has passed
            row.status = "ok, no ONNX"
    row.facts["seconds"] = round(time.process_time() - start, 2)
    return row


def check_pruning(tool: Tool, model: TwoTaskModel, example: Tensor, dense: Outputs, row: Row) -> None:
    """Prune with a tool; the result must run, be smaller, keep the shapes, be finite and export to ONNX."""
    before = _count(model)
    start = time.process_time()
    pruned = tool(model, example)
    after = _count(pruned)
    row.facts.update(
        params_before=before,
        params_after=after,
        params_ratio=round(after / before, 4),
        prune_seconds=round(time.process_time() - start, 2),
    )
    try:
        outputs = _run(pruned, example)
    except Exception as error:
        raise Broken(f"does not run: {_first_line(error)}") from error
    _check_outputs(outputs, dense)
    if after >= before:
        raise Broken("no parameter is gone")
    _check_onnx(pruned, example, row)


def _prune_lomt(model: TwoTaskModel, example: Tensor) -> nn.Module:
    import lomt

    pruned: nn.Module = lomt.prune(model, example, channels=KEPT_CHANNELS).model
    return pruned


def _prune_torch_pruning(model: TwoTaskModel, example: Tensor) -> nn.Module:
    import torch_pruning

    pruner = torch_pruning.pruner.BasePruner(
        model,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=1 - KEPT_CHANNELS,
        ignored_layers=[model.segmentation.predict, model.depth.predict],
    )
    pruner.step()
    return model


_TOOLS: dict[str, Tool] = {"lomt": _prune_lomt, "torch_pruning": _prune_torch_pruning}


def _check_outputs(outputs: Outputs, dense: Outputs) -> None:
    for name, expected in dense.items():
        if outputs[name].shape != expected.shape:
            raise Broken(f"`{name}` has shape {tuple(outputs[name].shape)}, not {tuple(expected.shape)}")
        if not outputs[name].isfinite().all():
            raise Broken(f"`{name}` is not finite")


def _check_onnx(model: nn.Module, example: Tensor, row: Row) -> None:
    """Export and compare for the example and, where the batch is variable, for two other images."""
    from lomt.deploy import OnnxModel

    batches = [example, torch.randn(2, *example.shape[1:], generator=torch.Generator().manual_seed(1))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        start = time.process_time()
        row.facts["onnx_batch"] = _export(model, example, path)
        row.facts["export_seconds"] = round(time.process_time() - start, 2)
        network = OnnxModel(path)
        for images in batches[: 2 if row.facts["onnx_batch"] == "variable" else 1]:
            expected = _run(model, images)
            answers = {name: torch.from_numpy(value) for name, value in network(images.numpy()).items()}
            difference = _difference(answers, expected)
            row.facts["onnx_difference"] = max(row.facts.get("onnx_difference", 0.0), difference)
            if not difference <= ONNX_TOLERANCE:
                raise Broken(f"ONNX differs from PyTorch by {difference:.2g} at a batch of {len(images)}")


def _export(model: nn.Module, example: Tensor, path: Path) -> str:
    """With a variable batch, as `lomt` exports, or else with that of the example."""
    from lomt.deploy import export_onnx

    try:
        export_onnx(model, example, path, fixed_size=True, verify=False)  # answers are compared by the caller
        return "variable"
    except Exception as error:
        reason = _first_line(error)
    try:
        torch.onnx.export(
            _Ordered(model), (example,), path, dynamo=True, verbose=False, external_data=False,
            input_names=["images"], output_names=["segmentation", "depth"],
        )  # fmt: skip
    except Exception as error:
        raise Broken(f"{_NO_ONNX}: {reason}; with a fixed batch: {_first_line(error)}") from error
    return "fixed"


def _exports(family: str) -> bool:
    """Whether the network exports before it is pruned."""
    model, example = two_task_model(family)
    with tempfile.TemporaryDirectory() as folder:
        try:
            _export(model, example, Path(folder) / "dense.onnx")
        except Broken:
            return False
    return True


class _Ordered(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.model(images)
        return outputs["segmentation"], outputs["depth"]


def check_exactness(model: TwoTaskModel, example: Tensor, family: str, row: Row) -> None:
    """Set random channels to zero where they are read; exact removal must take them and change nothing."""
    import lomt
    from lomt.structure import trace_structure

    prunable = trace_structure(model, example).prunable
    exact = [coupled for coupled in prunable if coupled.is_exact]
    row.facts.update(exact_axes=len(exact), lossy_axes=len(prunable) - len(exact))
    zeroed = {coupled.name: _zero_channels(model, coupled) for coupled in exact}
    expected = _run(_twin(model, family), example)
    result = lomt.prune(model, example)
    outputs = _run(result.model, example)
    gone = {
        coupled.name: coupled.count - len(result.plan.keep.get(coupled.name, range(coupled.count)))
        for coupled in prunable
    }
    row.facts.update(
        zeroed_channels=sum(zeroed.values()),
        removed_channels=sum(gone.values()),
        left_in_place=[name for name, count in zeroed.items() if gone[name] < count],
        params_ratio=round(_count(result.model) / _count(model), 4),
        difference={name: _difference({name: outputs[name]}, {name: expected[name]}) for name in expected},
    )
    if not exact:
        row.status, row.reason = "lossy only", "every axis that can be pruned is read by a mixing layer"
    worst = max(row.facts["difference"].values())
    if not worst <= EXACT_TOLERANCE:
        raise Broken(f"outputs change by {worst:.2g}")
    if exact and not any(gone[name] for name in zeroed):
        raise Broken("no zero channel is gone")


def _twin(model: TwoTaskModel, family: str) -> nn.Module:
    """The same weights in a network that has not run: what the first run keeps stays out of `model`."""
    twin = two_task_model(family)[0].to(next(model.parameters()).dtype)
    twin.load_state_dict(model.state_dict())
    return twin


def _zero_channels(model: nn.Module, coupled: Any) -> int:
    generator = torch.Generator().manual_seed(coupled.count)
    count: int = min(max(1, round(ZEROED_CHANNELS * coupled.count)), coupled.count - 1)
    channels = torch.randperm(coupled.count, generator=generator)[:count]
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for slices in coupled.slices:
        if slices.role == "consumer":
            positions = torch.isin(slices.owner, channels).nonzero().flatten()
            with torch.no_grad():
                tensors[slices.tensor].index_fill_(slices.dim, positions, 0.0)
    return count


def _run(model: nn.Module, images: Tensor) -> Outputs:
    with torch.no_grad():
        outputs: Outputs = model(images)
    return {name: value.detach().clone() for name, value in outputs.items()}


def _difference(outputs: Outputs, expected: Outputs) -> float:
    """Largest difference as a share of the output's largest number, over all outputs; infinite if not finite."""
    worst = 0.0
    for name, value in expected.items():
        if outputs[name].shape != value.shape or not outputs[name].isfinite().all():
            return float("inf")
        worst = max(worst, float((outputs[name] - value).abs().max() / value.abs().max().clamp_min(1e-300)))
    return worst


def _count(model: nn.Module) -> int:
    return sum(int(parameter.numel()) for parameter in model.parameters())


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"


def _innermost(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{'/'.join(Path(frame.filename).parts[-3:])}:{frame.lineno} {frame.name}"
