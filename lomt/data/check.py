"""A whole dataset looked through: every file decoded, every label counted."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lomt.data.opening import open_dataset, splits_of
from lomt.data.published import identify
from lomt.data.sample import IMAGE, Sample, Split, TargetSpec
from lomt.data.statistics import STATISTICS
from lomt.data.verify import Damage, Progress, find_damage

__all__ = ["DatasetCheck", "SplitCheck", "check_dataset"]


@dataclass(frozen=True)
class SplitCheck:
    """What was found in one split.

    Args:
        samples: Number of samples, damaged ones included.
        damages: The damaged ones.
        sizes: Number of whole images by height and width.
        statistics: Of each target, over the whole samples.
        notes: What a user should look at, by target.
    """

    samples: int
    damages: tuple[Damage, ...]
    sizes: dict[str, int]
    statistics: dict[str, dict[str, Any]]
    notes: dict[str, list[str]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "samples": self.samples,
            "damaged": [damage.message for damage in self.damages],
            "sizes": self.sizes,
            "targets": self.statistics,
            "notes": self.notes,
        }


@dataclass(frozen=True)
class DatasetCheck:
    """What was found in a dataset.

    Args:
        path: The dataset.
        layout: Name of its layout.
        name: Its name.
        targets: What was looked at.
        splits: What was found, by split.
    """

    path: Path
    layout: str
    name: str
    targets: dict[str, TargetSpec]
    splits: dict[Split, SplitCheck]

    @property
    def damaged(self) -> int:
        """Number of damaged samples."""
        return sum(len(split.damages) for split in self.splits.values())

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "path": str(self.path),
            "layout": self.layout,
            "name": self.name,
            "targets": {name: spec.kind for name, spec in self.targets.items()},
            "splits": {name: split.to_dict() for name, split in self.splits.items()},
        }


def check_dataset(
    path: Path,
    *,
    targets: Sequence[str] | None = None,
    threads: int = 2,
    progress: Progress | None = None,
) -> DatasetCheck:
    """Identify a dataset's layout and decode every sample of every split at its stored size.

    Args:
        path: The dataset.
        targets: Names of the targets to look at; the main ones by default.
        threads: How many samples are decoded at once.
        progress: Told of every sample.

    Raises:
        UnknownNameError: If the dataset has no such target.
        DataError: If the dataset cannot be opened; damaged samples are in the result.
    """
    layout = identify(path)
    name, specs = "", {}
    checks: dict[Split, SplitCheck] = {}
    for split in splits_of(layout, path):
        dataset = open_dataset(layout, path, split, size=None, targets=targets)
        name, specs = dataset.name, dict(dataset.targets)
        statistics = {target: STATISTICS[spec.kind](spec) for target, spec in specs.items()}
        sizes: Counter[str] = Counter()

        def visit(
            index: int, sample: Sample, sizes: Counter[str] = sizes, statistics: Any = statistics
        ) -> None:
            """Count a sample in."""
            sizes["x".join(map(str, sample[IMAGE].shape[:2]))] += 1
            for target, own in statistics.items():
                own.add(sample[target])

        damages = find_damage(
            dataset, threads=threads, visit=visit, progress=progress, description=f"checking {split}"
        )
        checks[split] = SplitCheck(
            samples=len(dataset),
            damages=damages,
            sizes=dict(sizes.most_common()),
            statistics={target: own.result() for target, own in statistics.items()},
            notes={target: own.notes for target, own in statistics.items() if own.samples and own.notes},
        )
    return DatasetCheck(path, layout, name, specs, checks)
