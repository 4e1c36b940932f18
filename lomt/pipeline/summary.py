"""What a run came to, in one table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lomt.pipeline.bench_stage import arm_titles
from lomt.pipeline.export_stage import onnx_files, task_files
from lomt.pipeline.parts import Parts
from lomt.pipeline.run_directory import RunDirectory
from lomt.pipeline.skipped import skipped_counts
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
        gains: Of every other network over the dense one.
        deployed: Name of the network to deploy.
        titles: What the table of files calls networks.
        task_costs: Cost by task of the files that hold one task each of the network to deploy.
        skipped: Number of damaged samples left out, by split.
    """

    name: str
    folder: str
    infos: Mapping[str, Sequence[MetricInfo]]
    branch_points: Mapping[str, str]
    metrics: Mapping[str, Results]
    costs: Mapping[str, Mapping[str, Any]]
    latency: Mapping[str, Mapping[str, Any]]
    gains: Mapping[str, DeltaM]
    deployed: str
    titles: Mapping[str, str]
    task_costs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; ``delta_m`` is that of the network to deploy."""
        last = self.gains.get(self.deployed)
        return {
            "name": self.name,
            "branch_points": dict(self.branch_points),
            "skipped_samples": dict(self.skipped),
            "metrics": {network: dict(results) for network, results in self.metrics.items()},
            "costs": {network: dict(cost) for network, cost in self.costs.items()},
            "task_costs": {task: dict(cost) for task, cost in self.task_costs.items()},
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
        lines += ["", *self._task_rows()] if self.task_costs else []
        lines += ["", *self._speed_table()]
        lines += [f"{network}: {gain}" for network, gain in self.gains.items()]
        lines += [f"{count} damaged samples of {split} left out" for split, count in self.skipped.items()]
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

    def _task_rows(self) -> list[str]:
        whole = list(self.costs.values())[-1] if self.costs else None
        rows = [
            (
                "file of one task",
                "branch point",
                "",
                "parameters (M)",
                "MACs (M)",
                "of all tasks",
                "file (MB)",
            )
        ]
        for task, cost in self.task_costs.items():
            share = "" if whole is None or not whole["macs"] else f"{cost['macs'] / whole['macs']:.0%}"
            numbers = (_shown(cost["params"] / 1e6), _shown(cost["macs"] / 1e6))
            rows.append(
                (
                    task,
                    self.branch_points.get(task, ""),
                    "",
                    *numbers,
                    share,
                    _shown(cost["file_bytes"] / 1e6),
                )
            )
        return _aligned(rows)

    def _speed_table(self) -> list[str]:
        """Return a table of all files for each number of threads: networks, single tasks, int8."""
        lines = []
        for threads, report in self.latency.items():
            noise, settings = report["noise_floor"], report["settings"]
            heading = (
                "file",
                "ms",
                "p95",
                "speed-up (95 % interval)",
                "M MACs",
                "MB",
                "memory MB",
                "of peak",
            )
            rows = [heading]
            for name, arm in report["arms"].items():
                rows.append(
                    (
                        self.titles.get(name, name),
                        f"{arm['median_ms']:.2f}",
                        f"{arm['statistics']['p95_ms']:.2f}",
                        _speed_up(report["speed_ups"].get(name)),
                        _scaled(arm["macs"], 1e6, ".0f"),
                        _scaled(arm["file_bytes"], 1e6, ".2f"),
                        _scaled(arm["peak_memory_bytes"], 1e6, ".0f"),
                        _scaled(arm["efficiency"], 1, ".0%"),
                    )
                )
            lines += [
                f"latency, {settings['provider']}, {threads} thread(s), batch {settings['batch']}; dense against "
                f"itself {noise['ratio']:.2f} [{noise['low']:.3f}, {noise['high']:.3f}]",
                *_aligned(rows, left=(0,)),
                *(f"warning: {text}" for text in report["warnings"]),
                "",
            ]
        return lines


def summarise(directory: RunDirectory, recipe: Recipe, parts: Parts) -> RunSummary:
    """Gather what the stages have written so far."""
    stored = {name: directory.find_json(name, "metrics.json") for name in onnx_files(recipe)}
    if recipe.quantize is not None:
        stored["int8"] = directory.find_json("quantized", "metrics.json")
    found = {name: content for name, content in stored.items() if content is not None}
    metrics = {name: content["metrics"] for name, content in found.items()}
    bench = directory.find_json("bench", "latency.json") or {}
    costs = directory.find_json("deploy", "cost.json") or {}
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
        costs=bench.get("cost")
        or {stage: costs[name] for stage, name in onnx_files(recipe).items() if name in costs},
        latency=bench.get("threads", {}),
        gains=gains,
        deployed=list(onnx_files(recipe))[-1],
        titles=arm_titles(recipe),
        task_costs={task: costs[name] for task, name in task_files(recipe).items() if name in costs},
        skipped=skipped_counts(directory),
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


def _scaled(value: float | None, unit: float, form: str) -> str:
    return "" if value is None else format(value / unit, form)


def _speed_up(found: Mapping[str, Any] | None) -> str:
    """Show a ratio only where its interval excludes what the noise explains."""
    if found is None:
        return "baseline"
    interval = f"[{found['low']:.3f}, {found['high']:.3f}]"
    shown = f"{found['ratio']:.2f}x" if found["is_distinguishable"] else "not distinguishable"
    return f"{shown} {interval}"


def _aligned(rows: Sequence[Sequence[str]], left: Sequence[int] = (0, 1, 2)) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    numeric = [column for column in range(len(widths)) if column not in left]
    return [
        "  ".join(
            cell.rjust(width) if column in numeric else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
