"""What adding a task came to, as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lomt.pipeline.text_cells import aligned
from lomt.tasks import MetricInfo

__all__ = ["AddSummary"]


@dataclass(frozen=True)
class AddSummary:
    """What `lomt add` found.

    Args:
        sharing: Content of ``sharing.json``.
        metrics: Content of ``metrics.json``.
        infos: Every metric's unit and direction, by task.
        folder: Where the artefacts are.
    """

    sharing: Mapping[str, Any]
    metrics: Mapping[str, Any]
    infos: Mapping[str, Sequence[MetricInfo]]
    folder: str

    @property
    def changed(self) -> tuple[str, ...]:
        """The layers that the new task has for its own."""
        return tuple(layer["layer"] for layer in self.sharing["layers"] if layer["changed"])

    def __str__(self) -> str:
        parameters, macs, count = (
            self.sharing["parameters"],
            self.sharing["macs"],
            len(self.sharing["layers"]),
        )
        first = self.sharing["first_changed"]
        since = "all features are shared" if first is None else f"the first is {first}"
        rows = [
            (
                "layers changed",
                f"{len(self.changed)} of {count}",
                f"{since}; read at {self.sharing['branch_point']}",
            ),
            (
                "parameters added",
                f"{parameters['added'] / 1e6:.3f} M",
                _share(parameters) + _decoder(parameters),
            ),
            ("MACs added", f"{macs['added'] / 1e6:.3f} M", _share(macs)),
            *self._metric_rows(),
        ]
        unjudged = self.metrics["not_judged"]
        more = (
            [f"Not judged, because the recipe does not have them: {', '.join(unjudged)}."] if unjudged else []
        )
        return "\n".join([*aligned(rows, left=(0, 2)), *more, f"Artefacts in {self.folder}"])

    def _metric_rows(self) -> list[tuple[str, str, str]]:
        rows = []
        before = self.metrics["before"]["metrics"]
        for task, infos in self.infos.items():
            for info in infos:
                value = self.metrics["metrics"][task][info.name]
                note = f"before {before[task][info.name]:.4g}" if task in before else "new"
                rows.append((f"{task} {info.name}", f"{value:.4g}", note))
        return rows


def _share(counts: Mapping[str, Any]) -> str:
    return f"{counts['share']:.1%} of the network"


def _decoder(counts: Mapping[str, Any]) -> str:
    return f", decoder {counts['decoder'] / 1e6:.3f} M of it"
