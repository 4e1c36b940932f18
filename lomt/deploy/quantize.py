"""Int8 where it does no harm: the layers that cost most stay in float until every task keeps its quality."""

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from lomt.atomic_file import write_atomically
from lomt.deploy.int8 import Int8Writer, QuantizationError
from lomt.deploy.onnx_model import OnnxModel
from lomt.errors import UnknownNameError

__all__ = ["FloatLayer", "Judge", "Quantization", "Trial", "layer_costs", "quantize_int8"]

Judge = Callable[[Path], Mapping[str, float]]
"""Map from an ONNX file to the share of the float network's quality that each task keeps, 1 for all of it."""

_COST_IMAGES = 4
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FloatLayer:
    """A layer that stays in float.

    Attributes:
        name: Of the node.
        kind: Operator.
        costs: What int8 in this layer alone does to each output: mean squared difference over the output's variance.
    """

    name: str
    kind: str
    costs: Mapping[str, float]


@dataclass(frozen=True)
class Trial:
    """One file that was judged on the way: how many layers were held in float, and what each task kept."""

    float_layers: int
    kept: Mapping[str, float]


@dataclass(frozen=True)
class Quantization:
    """What became of a network; see :func:`quantize_int8`.

    Attributes:
        path: The int8 file.
        asked: Share of its float quality that each task was to keep.
        kept: Share that each task keeps.
        kept_by_all_int8: Share that each task would keep if no layer stayed in float.
        layers: How many layers could be int8.
        float_layers: Those that stay in float, the costliest first; at the end such as only pass numbers on and have
            no int8 neighbour.
        refused: Layers that onnxruntime cannot quantise, by name; they are float as well.
        trials: What was judged, in order.
        images: Calibration images.
        method: Of calibration.
        reduce_range: Whether weights have 7 bits.
        float_bytes: Size of the float file.
        int8_bytes: Size of the int8 file.
    """

    path: str
    asked: float
    kept: Mapping[str, float]
    kept_by_all_int8: Mapping[str, float]
    layers: int
    float_layers: tuple[FloatLayer, ...]
    refused: tuple[str, ...]
    trials: tuple[Trial, ...]
    images: int
    method: str
    reduce_range: bool
    float_bytes: int
    int8_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        values = asdict(self)
        values["float_layers"] = [asdict(layer) for layer in self.float_layers]
        values["refused"] = list(self.refused)
        values["trials"] = [asdict(trial) for trial in self.trials]
        return values

    def __str__(self) -> str:
        number = len(self.float_layers)
        lines = [
            f"{self.layers - number} of {self.layers} layers in int8, {self.float_bytes / 1e6:.2f} -> "
            f"{self.int8_bytes / 1e6:.2f} MB, calibrated on {self.images} images ({self.method})",
            f"{'task':20}  all int8  as written  (share of the float network's quality; asked {self.asked:.1%})",
        ]
        lines += [
            f"{task:20}  {self.kept_by_all_int8[task]:8.2%}  {kept:10.2%}" for task, kept in self.kept.items()
        ]
        for layer in self.float_layers:
            costs = ", ".join(f"{output} {cost:.1e}" for output, cost in layer.costs.items() if cost)
            lines.append(f"float: {layer.name} ({layer.kind}){f', cost {costs}' if costs else ''}")
        lines += [f"float: {name}, which onnxruntime cannot quantise" for name in self.refused]
        return "\n".join(lines)


def quantize_int8(
    path: Path,
    out: Path,
    images: Sequence[np.ndarray],
    judge: Judge,
    *,
    share: float = 0.99,
    method: str = "minmax",
    reduce_range: bool | None = None,
    keep_float: Collection[str] = (),
) -> Quantization:
    """Write an int8 network in which every task keeps the asked share of its quality.

    All layers are tried in int8 first. Where that costs a task too much, each layer's cost is measured: it alone goes
    to int8, and the outputs of a few images are compared with the float ones. The layers that cost the failing tasks
    most stay in float, ever more of them until every task keeps its share, and then as few as the judge allows among
    these first ones. The file is judged as it is written.

    Args:
        path: The float32 ONNX file.
        out: Where the int8 file goes.
        images: Calibration images as the network takes them, each (channels, height, width).
        judge: Says what share of its float quality each task keeps on a file.
        share: Least share for every task.
        method: How activations' ranges follow from the images.
        reduce_range: Whether weights get 7 bits; ``None`` asks this machine, see :class:`lomt.deploy.int8.Int8Writer`.
        keep_float: Layers, by the node's name, that stay in float in any case.

    Raises:
        ValueError: ``share`` does not lie between 0 and 1.
        UnknownNameError: There is no such method or layer.
        QuantizationError: No layer may be int8 if every task is to keep its share, or onnxruntime refuses.
        ArtifactError: The file cannot be read.
    """
    if not 0 < share <= 1:
        raise ValueError(f"Expected `share` to be above 0 and at most 1, but got {share}.")
    with TemporaryDirectory(prefix="lomt-int8-") as folder:
        writer = Int8Writer(path, images, Path(folder), method=method, reduce_range=reduce_range)
        search = _Search(writer, path, images, judge, share, tuple(keep_float), Path(folder))
        chosen = search.run()
        running = write_atomically(out, lambda partial: search.write(partial, chosen, method))
        unquantised = [name for name in search.order if name not in running]
        return Quantization(
            path=str(out),
            asked=share,
            kept=search.kept_by[len(writer.layers) - len(chosen)],
            kept_by_all_int8=search.trials[0].kept,
            layers=len(writer.layers),
            float_layers=tuple(
                FloatLayer(name, writer.layers[name], search.costs.get(name, {})) for name in unquantised
            ),
            refused=tuple(writer.refused),
            trials=tuple(search.trials),
            images=len(images),
            method=method,
            reduce_range=writer.reduce_range,
            float_bytes=path.stat().st_size,
            int8_bytes=out.stat().st_size,
        )


class _Search:
    """The fewest layers in float, among the costliest ones, with which every task keeps its share."""

    def __init__(
        self,
        writer: Int8Writer,
        path: Path,
        images: Sequence[np.ndarray],
        judge: Judge,
        share: float,
        keep_float: tuple[str, ...],
        folder: Path,
    ) -> None:
        for name in keep_float:
            if name not in writer.layers:
                raise UnknownNameError("layer", name, writer.layers)
        self._writer, self._path, self._images = writer, path, images
        self._judge, self._share, self._folder = judge, share, folder
        self._least = len(keep_float)
        self.order = [*keep_float, *(name for name in writer.layers if name not in keep_float)]
        self.costs: Mapping[str, Mapping[str, float]] = {}
        self.trials: list[Trial] = []
        self.kept_by: dict[int, Mapping[str, float]] = {}

    def run(self) -> set[str]:
        """Return the layers that may be int8."""
        kept = self._try(self._least)
        failing = [task for task, value in kept.items() if not value >= self._share]
        if not failing:
            return set(self.order[self._least :])
        self._sort(failing)
        too_few, step, count = self._least, 1, len(self.order)
        enough = min(count, self._least + step)
        while not self._passes(enough):
            if enough == count:
                raise QuantizationError(self._refusal())
            step *= 2
            too_few, enough = enough, min(count, enough + step)
        while enough - too_few > 1:
            middle = (enough + too_few) // 2
            too_few, enough = (too_few, middle) if self._passes(middle) else (middle, enough)
        if enough == count:
            raise QuantizationError(self._refusal())
        return set(self.order[enough:])

    def write(self, partial: Path, chosen: set[str], method: str) -> set[str]:
        """Write the file, and return the layers that do run in int8.

        Raises:
            QuantizationError: There are none.
        """
        layers, images = len(self._writer.layers), len(self._images)
        note = {
            "layers": layers,
            "chosen": len(chosen),
            "asked": self._share,
            "method": method,
            "images": images,
        }
        self._writer.write(partial, chosen, note=json.dumps(note))
        running = self._writer.int8_layers(partial, chosen)
        if not running:
            raise QuantizationError(self._refusal())
        return running

    def _sort(self, failing: Sequence[str]) -> None:
        """Put the layers that cost the failing tasks most first, after those that stay in float anyway."""
        rest = self.order[self._least :]
        self.costs = layer_costs(self._writer, self._path, self._images[:_COST_IMAGES], rest, self._folder)
        outputs = [task for task in failing if all(task in own for own in self.costs.values())]
        outputs = outputs or sorted({output for own in self.costs.values() for output in own})
        totals = {output: sum(own[output] for own in self.costs.values()) or 1.0 for output in outputs}
        rest.sort(key=lambda name: -max(self.costs[name][output] / totals[output] for output in outputs))
        self.order[self._least :] = rest

    def _passes(self, float_layers: int) -> bool:
        return all(value >= self._share for value in self._try(float_layers).values())

    def _try(self, float_layers: int) -> Mapping[str, float]:
        if float_layers not in self.kept_by:
            file = self._writer.write(self._folder / "trial.onnx", set(self.order[float_layers:]))
            kept = dict(self._judge(file))
            _logger.info("With %d of %d layers in float: %s", float_layers, len(self.order), kept)
            self.trials.append(Trial(float_layers, kept))
            self.kept_by[float_layers] = kept
        return self.kept_by[float_layers]

    def _refusal(self) -> str:
        worst = min(self.trials[0].kept.items(), key=lambda item: item[1])
        return (
            f"Expected some layers of `{self._path}` to be int8 with every task keeping {self._share:.1%} of its float "
            f"quality, but even one costs more; all of them leave `{worst[0]}` {worst[1]:.1%}. Ask for a smaller "
            "share, give more calibration images, or use fp16."
        )


def layer_costs(
    writer: Int8Writer, path: Path, images: Sequence[np.ndarray], layers: Sequence[str], folder: Path
) -> dict[str, dict[str, float]]:
    """Measure what int8 in one layer alone does to every output.

    Args:
        writer: Calibrated.
        path: The float32 file.
        images: A few, as the network takes them.
        layers: Names among the writer's.
        folder: For files of the moment.

    Returns:
        By layer and output: mean squared difference over the output's variance.
    """
    batch = np.stack(images)
    expected = OnnxModel(path)(batch)
    costs = {}
    for layer in layers:
        found = OnnxModel(writer.write(folder / "layer.onnx", {layer}))(batch)
        costs[layer] = {output: _relative_error(found[output], value) for output, value in expected.items()}
    return costs


def _relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    difference = found.astype(np.float64) - expected.astype(np.float64)
    spread = float(np.var(expected.astype(np.float64)))
    error = float(np.mean(difference**2))
    return error / spread if spread > 0 else error
