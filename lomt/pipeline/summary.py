"""What a run came to, in one table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from lomt.pipeline.parts import Parts
from lomt.pipeline.run_directory import RunDirectory
from lomt.recipe import Recipe
from lomt.tasks import DeltaM, MetricInfo, delta_m

__all__ = ["RunSummary", "summarise"]

Results = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class RunSummary:
    """Quality, cost and speed of the dense and the rewired network; what has not been run is absent.

    Args:
        name: Of the recipe.
        folder: The run directory.
        infos: Every metric's unit and direction, by task.
        branch_points: Layer by task.
        metrics: By network (``"dense"``, ``"rewired"``), task and metric, on the test split.
        costs: Parameters, MACs and file size by network.
        latency: Latency report by number of threads.
        gain: Of the rewired network over the dense one.
    """

    name: str
    folder: str
    infos: Mapping[str, Sequence[MetricInfo]]
    branch_points: Mapping[str, str]
    metrics: Mapping[str, Results]
    costs: Mapping[str, Mapping[str, Any]]
    latency: Mapping[str, Mapping[str, Any]]
    gain: DeltaM | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "name": self.name,
            "branch_points": dict(self.branch_points),
            "metrics": {network: dict(results) for network, results in self.metrics.items()},
            "costs": {network: dict(cost) for network, cost in self.costs.items()},
            "speed_ups": {threads: report["speed_ups"] for threads, report in self.latency.items()},
            "delta_m": None if self.gain is None else self.gain.value,
            "delta_m_per_task": None if self.gain is None else dict(self.gain.per_task),
        }

    def __str__(self) -> str:
        if not self.metrics:
            return f"{self.name}: nothing measured yet, artefacts in {self.folder}"
        networks = list(self.metrics)
        rows = [("task", "branch point", "metric", *networks, "change")]
        for task, infos in self.infos.items():
            for index, info in enumerate(infos):
                heading = (task, self.branch_points.get(task, "")) if index == 0 else ("", "")
                rows.append((*heading, _label(info, is_primary=index == 0), *self._values(task, info)))
        rows += self._cost_rows(networks)
        lines = [f"{self.name}: test split; * is a task's primary metric", "", *_aligned(rows)]
        lines += ["", *self._latency_lines()]
        lines += [str(self.gain)] if self.gain is not None else []
        return "\n".join([*lines, f"Artefacts in {self.folder}"])

    def _values(self, task: str, info: MetricInfo) -> tuple[str, ...]:
        values = [results[task][info.name] for results in self.metrics.values()]
        shown = [f"{value:.4g}" for value in values]
        return (*shown, _change(values[0], values[-1]) if len(values) > 1 else "")

    def _cost_rows(self, networks: Sequence[str]) -> list[tuple[str, ...]]:
        if not self.costs:
            return []
        rows = []
        for label, entry, scale in (
            ("parameters (M)", "params", 1e6),
            ("MACs (M)", "macs", 1e6),
            ("file (MB)", "file_bytes", 1e6),
        ):
            values = [self.costs[network][entry] for network in networks]
            rows.append(
                (label, "", "", *(f"{v / scale:.4g}" for v in values), _change(values[0], values[-1]))
            )
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
    stored = {name: directory.find_json(name, "metrics.json") for name in ("dense", "rewired")}
    found = {name: content for name, content in stored.items() if content is not None}
    metrics = {name: content["metrics"] for name, content in found.items()}
    bench = directory.find_json("bench", "latency.json") or {}
    infos = {name: task.metrics.infos for name, task in parts.tasks.items()} if metrics else {}
    gain = None
    if len(metrics) == 2:
        directions = {name: {i.name: i.higher_is_better for i in own} for name, own in infos.items()}
        gain = delta_m(
            metrics["rewired"],
            metrics["dense"],
            directions,
            baseline_name="dense mtl",
            reduction=recipe.bench.delta_m,
        )
    return RunSummary(
        name=recipe.name,
        folder=str(directory.path),
        infos=infos,
        branch_points=found.get("rewired", {}).get("branch_points", {}),
        metrics=metrics,
        costs=bench.get("cost", {}),
        latency=bench.get("threads", {}),
        gain=gain,
    )


def _label(info: MetricInfo, *, is_primary: bool) -> str:
    unit = f" ({info.unit})" if info.unit else ""
    arrow = "higher" if info.higher_is_better else "lower"
    return f"{'*' if is_primary else ' '} {info.name}{unit}, {arrow} is better"


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
