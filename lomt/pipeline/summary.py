"""What a run came to, in one table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from lomt.pipeline.export_stage import onnx_files
from lomt.pipeline.parts import Parts
from lomt.pipeline.run_directory import RunDirectory
from lomt.recipe import Recipe
from lomt.tasks import DeltaM, MetricInfo, delta_m

__all__ = ["RunSummary", "summarise"]

Results = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class RunSummary:
    """Quality, cost and speed of a run's networks; what has not been run is absent.

    Args:
        name: Of the recipe.
        folder: The run directory.
        infos: Every metric's unit and direction, by task.
        branch_points: Layer by task.
        metrics: By network (``"dense"``, ``"rewired"``, ``"sparse"``, ``"pruned"``), task and metric, on the test
            split.
        costs: Parameters, MACs and file size by network.
        latency: Latency report by number of threads.
        gains: Of every other network over the dense one; the last is the one to deploy.
    """

    name: str
    folder: str
    infos: Mapping[str, Sequence[MetricInfo]]
    branch_points: Mapping[str, str]
    metrics: Mapping[str, Results]
    costs: Mapping[str, Mapping[str, Any]]
    latency: Mapping[str, Mapping[str, Any]]
    gains: Mapping[str, DeltaM]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; ``delta_m`` is that of the network to deploy."""
        last = list(self.gains.values())[-1] if self.gains else None
        return {
            "name": self.name,
            "branch_points": dict(self.branch_points),
            "metrics": {network: dict(results) for network, results in self.metrics.items()},
            "costs": {network: dict(cost) for network, cost in self.costs.items()},
            "speed_ups": {threads: report["speed_ups"] for threads, report in self.latency.items()},
            "delta_m": None if last is None else last.value,
            "delta_m_per_task": None if last is None else dict(last.per_task),
            "delta_m_by_network": {network: gain.value for network, gain in self.gains.items()},
        }

    def __str__(self) -> str:
        if not self.metrics:
            return f"{self.name}: nothing measured yet, artefacts in {self.folder}"
        networks = list(self.metrics)
        first, *others = networks
        columns = [first, *(cell for network in others for cell in (network, "change"))]
        rows = [("task", "branch point", "metric", *columns)]
        for task, infos in self.infos.items():
            for index, info in enumerate(infos):
                heading = (task, self.branch_points.get(task, "")) if index == 0 else ("", "")
                rows.append((*heading, _label(info, is_primary=index == 0), *self._values(task, info)))
        rows += self._cost_rows(networks)
        lines = [f"{self.name}: test split; * is a task's primary metric", "", *_aligned(rows)]
        lines += ["", *self._latency_lines()]
        lines += [f"{network}: {gain}" for network, gain in self.gains.items()]
        return "\n".join([*lines, f"Artefacts in {self.folder}"])

    def _values(self, task: str, info: MetricInfo) -> tuple[str, ...]:
        return _with_changes([results[task][info.name] for results in self.metrics.values()])

    def _cost_rows(self, networks: Sequence[str]) -> list[tuple[str, ...]]:
        if not self.costs:
            return []
        rows = []
        for label, entry, scale in (
            ("parameters (M)", "params", 1e6),
            ("MACs (M)", "macs", 1e6),
            ("file (MB)", "file_bytes", 1e6),
        ):
            costs = [self.costs.get(network) for network in networks]
            values = [None if cost is None else cost[entry] / scale for cost in costs]
            rows.append((label, "", "", *_with_changes(values)))
        return rows

    def _latency_lines(self) -> list[str]:
        lines = []
        for threads, report in self.latency.items():
            medians = {name: median(arm["round_medians_ms"]) for name, arm in report["arms"].items()}
            shown = ", ".join(f"{name} {value:.2f} ms" for name, value in medians.items())
            for name, speed_up in report["speed_ups"].items():
                low, high = speed_up["low"], speed_up["high"]
                said = (
                    f"{speed_up['ratio']:.2f} times as fast"
                    if speed_up["is_distinguishable"]
                    else "not distinguishable from dense"
                )
                lines.append(
                    f"latency, {report['settings']['device']}, {threads} thread(s): {shown}; {name} is {said} "
                    f"(95 % interval {low:.2f} to {high:.2f}; dense against itself "
                    f"{report['noise_floor']['ratio']:.2f})"
                )
        return lines


def summarise(directory: RunDirectory, recipe: Recipe, parts: Parts) -> RunSummary:
    """Gather what the stages have written so far."""
    stored = {name: directory.find_json(name, "metrics.json") for name in onnx_files(recipe)}
    found = {name: content for name, content in stored.items() if content is not None}
    metrics = {name: content["metrics"] for name, content in found.items()}
    bench = directory.find_json("bench", "latency.json") or {}
    infos = {name: task.metrics.infos for name, task in parts.tasks.items()} if metrics else {}
    directions = {name: {i.name: i.higher_is_better for i in own} for name, own in infos.items()}
    gains = {
        name: delta_m(
            results,
            metrics["dense"],
            directions,
            baseline_name="dense mtl",
            reduction=recipe.bench.delta_m,
        )
        for name, results in metrics.items()
        if name != "dense" and "dense" in metrics
    }
    return RunSummary(
        name=recipe.name,
        folder=str(directory.path),
        infos=infos,
        branch_points=found.get("rewired", {}).get("branch_points", {}),
        metrics=metrics,
        costs=bench.get("cost", {}),
        latency=bench.get("threads", {}),
        gains=gains,
    )


def _label(info: MetricInfo, *, is_primary: bool) -> str:
    unit = f" ({info.unit})" if info.unit else ""
    arrow = "higher" if info.higher_is_better else "lower"
    return f"{'*' if is_primary else ' '} {info.name}{unit}, {arrow} is better"


def _with_changes(values: Sequence[float | None]) -> tuple[str, ...]:
    """Show the first value, then each further one with its change against the first; nothing for what is unknown."""
    first, *others = values
    cells = [_shown(first)]
    for value in others:
        change = "" if first is None or value is None else _change(first, value)
        cells += [_shown(value), change]
    return tuple(cells)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _change(before: float, after: float) -> str:
    return f"{(after - before) / abs(before):+.1%}" if before else ""


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    numeric = range(3, len(widths))
    return [
        "  ".join(
            cell.rjust(width) if column in numeric else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
