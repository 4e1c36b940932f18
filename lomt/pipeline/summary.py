"""What a run came to: a table of quality, and a table of files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lomt.pipeline.bench_stage import arm_titles
from lomt.pipeline.export_stage import onnx_files, task_files
from lomt.pipeline.parts import Parts
from lomt.pipeline.run_directory import RunDirectory
from lomt.pipeline.skipped import skipped_counts
from lomt.pipeline.target_alone import TARGET_ALONE
from lomt.pipeline.target_table import target_table
from lomt.pipeline.text_cells import aligned, label, shown, with_changes
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
        metrics: By network (``"dense"``, ``"rewired"``, ``"sparse"``, ``"pruned_only"``, ``"pruned"``,
            ``"finetuned"``), task and metric, on the test split.
        costs: Parameters, MACs and file size by network.
        latency: Latency report by number of threads.
        gains: Of every other network over the dense one.
        deployed: Name of the network to deploy.
        titles: What the table of files calls networks.
        task_costs: Cost by task of the files that hold one task each of the network to deploy.
        skipped: Number of damaged samples left out, by split.
        agreed: Tasks whose metrics are agreement with the original network, as it made their targets.
        target: The target's name, and what it reaches in a network of its own with as many steps and in as much time.
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
    agreed: Sequence[str] = ()
    target: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; ``delta_m`` is that of the network to deploy."""
        last = self.gains.get(self.deployed)
        return {
            "name": self.name,
            "branch_points": dict(self.branch_points),
            "skipped_samples": dict(self.skipped),
            "agreement_with_original": list(self.agreed),
            "metrics": {network: dict(results) for network, results in self.metrics.items()},
            "costs": {network: dict(cost) for network, cost in self.costs.items()},
            "task_costs": {task: dict(cost) for task, cost in self.task_costs.items()},
            "speed_ups": {threads: report["speed_ups"] for threads, report in self.latency.items()},
            "delta_m": None if last is None else last.value,
            "delta_m_per_task": None if last is None else dict(last.per_task),
            "delta_m_by_network": {network: gain.value for network, gain in self.gains.items()},
            "target": None if self.target is None else dict(self.target),
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
                rows.append((*heading, label(info, is_primary=index == 0), *self._values(task, info)))
        rows += self._cost_rows(networks)
        lines = [f"{self.name}: test split; * is a task's primary metric", "", *aligned(rows)]
        if self.agreed:
            lines += ["", _agreement_note(self.agreed)]
        if self.target is not None:
            task = self.target["task"]
            lines += ["", *target_table(self.target, self.infos[task], self.metrics["dense"][task])]
        lines += ["", *self._file_tables()]
        lines += [f"{network}: {gain}" for network, gain in self.gains.items()]
        lines += [f"{count} damaged samples of {split} left out" for split, count in self.skipped.items()]
        return "\n".join([*lines, f"Artefacts in {self.folder}"])

    def _values(self, task: str, info: MetricInfo) -> tuple[str, ...]:
        values = [results[task][info.name] for results in self.metrics.values()]
        return with_changes(values, shows_change=task not in self.agreed)

    def _cost_rows(self, networks: Sequence[str]) -> list[tuple[str, ...]]:
        if not self.costs:
            return []
        rows = []
        for title, entry, scale in (
            ("parameters (M)", "params", 1e6),
            ("MACs (M)", "macs", 1e6),
            ("file (MB)", "file_bytes", 1e6),
        ):
            costs = [self.costs.get(network) for network in networks]
            values = [None if cost is None else cost[entry] / scale for cost in costs]
            rows.append((title, "", "", *with_changes(values)))
        return rows

    def _file_tables(self) -> list[str]:
        """Return a table of all files: one for each number of threads, or of their costs where no speed is known."""
        costs = {**self.costs, **{f"task {task}": cost for task, cost in self.task_costs.items()}}
        heading = ("file", "parameters (M)", "MACs (M)", "file (MB)")
        cells = {name: (self._title(name), *_cost_cells(cost)) for name, cost in costs.items()}
        if not self.latency:
            return [*aligned([heading, *cells.values()], left=(0,)), ""] if cells else []
        speed = ("ms", "p95", "speed-up (95 % interval)", "memory (MB)", "of GEMM")
        lines = []
        for threads, report in self.latency.items():
            noise, settings = report["noise_floor"], report["settings"]
            rows = [
                (*cells[name], *_speed_cells(arm, report["speed_ups"].get(name)))
                for name, arm in report["arms"].items()
            ]
            lines += [
                f"latency, {settings['provider']}, {threads} {'thread' if threads == '1' else 'threads'}, "
                f"batch {settings['batch']}; dense against itself {noise['ratio']:.2f} "
                f"[{noise['low']:.3f}, {noise['high']:.3f}]",
                *aligned([(*heading, *speed), *rows], left=(0,)),
                *(f"warning: {text}" for text in report["warnings"]),
                "",
            ]
        return lines

    def _title(self, name: str) -> str:
        task = name.removeprefix("task ")
        if task in self.task_costs and name != task:
            point = self.branch_points.get(task)
            return name if point is None else f"{name}, at {point}"
        return self.titles.get(name, name)


def summarise(directory: RunDirectory, recipe: Recipe, parts: Parts) -> RunSummary:
    """Gather what the stages have written so far."""
    stored = {name: directory.find_json(name, "metrics.json") for name in onnx_files(recipe)}
    if recipe.quantize is not None:
        stored["int8"] = directory.find_json("quantized", "metrics.json")
    found = {name: content for name, content in stored.items() if content is not None}
    metrics = {name: content["metrics"] for name, content in found.items()}
    bench = directory.find_json("bench", "latency.json") or {}
    exported = directory.find_json("deploy", "cost.json") or {}
    files = onnx_files(recipe)
    costs = {name: exported[file] for name, file in files.items() if file in exported}
    if "int8" in bench.get("cost", {}):
        costs["int8"] = bench["cost"]["int8"]
    infos = {name: task.metrics.infos for name, task in parts.tasks.items()} if metrics else {}
    directions = {name: {i.name: i.higher_is_better for i in own} for name, own in infos.items()}
    judged = {
        name: {task: own for task, own in results.items() if task not in parts.agreed}
        for name, results in metrics.items()
    }
    gains = {
        name: delta_m(
            results,
            judged["dense"],
            directions,
            baseline_name="dense mtl",
            reduction=recipe.bench.delta_m,
        )
        for name, results in judged.items()
        if name != "dense" and judged.get("dense")
    }
    return RunSummary(
        name=recipe.name,
        folder=str(directory.path),
        infos=infos,
        branch_points=found.get("rewired", {}).get("branch_points", {}),
        metrics=metrics,
        costs=costs,
        latency=bench.get("threads", {}),
        gains=gains,
        deployed=list(files)[-1],
        titles=arm_titles(recipe),
        task_costs={task: exported[file] for task, file in task_files(recipe).items() if file in exported},
        skipped=skipped_counts(directory),
        agreed=parts.agreed,
        target=directory.find_json(TARGET_ALONE, "metrics.json"),
    )


def _agreement_note(tasks: Sequence[str]) -> str:
    return (
        f"{', '.join(tasks)}: without labels, so these figures are agreement with the original network, "
        "and no part of delta_m."
    )


def _cost_cells(cost: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(shown(cost[entry] / 1e6) for entry in ("params", "macs", "file_bytes"))


def _speed_cells(arm: Mapping[str, Any], speed_up: Mapping[str, Any] | None) -> tuple[str, ...]:
    return (
        f"{arm['median_ms']:.2f}",
        f"{arm['statistics']['p95_ms']:.2f}",
        _speed_up(speed_up),
        f"{arm['peak_memory_bytes'] / 1e6:.0f}",
        "" if arm["efficiency"] is None else f"{arm['efficiency']:.0%}",
    )


def _speed_up(found: Mapping[str, Any] | None) -> str:
    """Show a ratio only where its interval excludes what the noise explains."""
    if found is None:
        return "baseline"
    interval = f"[{found['low']:.3f}, {found['high']:.3f}]"
    ratio = f"{found['ratio']:.2f}x" if found["is_distinguishable"] else "not distinguishable"
    return f"{ratio} {interval}"
