"""NYU-Depth v2 as the ``NYUD_MT`` package: ``images``, ``segmentation``, ``normals``, ``depth``, ``edge``, ``gt_sets``.

References:
    Attentive Single-Tasking of Multiple Tasks, Maninis, Radosavovic, Kokkinos, 2019,
    https://arxiv.org/abs/1904.08918 (the package); 2308.12114 and 2406.03048 train on it.
"""

from pathlib import Path

import numpy as np

from lomt.data.columns import DepthColumn, EdgesColumn, NormalsColumn, SegmentationColumn
from lomt.data.inside import names_in
from lomt.data.published.collection import Collection, FileImages, FileTarget, StoredTarget, TargetReader
from lomt.data.published.derived import EdgesOfLabels, NormalsOfDepth
from lomt.data.published.fingerprint import fingerprint_of
from lomt.data.published.nyuv2_classes import CLASSES_13, CLASSES_40, NAMED_40, forty_to
from lomt.data.published.nyuv2_mat import CAMERA
from lomt.data.published.text_file import read_lines
from lomt.data.sample import Split
from lomt.errors import DataError

__all__ = ["collect", "recognise"]


def recognise(root: Path) -> bool:
    """Return whether a folder has this layout."""
    return (root / "gt_sets").is_dir() and (root / "images").is_dir() and (root / "segmentation").is_dir()


def collect(root: Path) -> Collection:
    """Open the folder.

    Splits: ``gt_sets/train.txt``, ``val.txt``, ``test.txt``. Without ``test.txt`` the val list, which then is
    the official test split, is test.

    Targets: ``segmentation`` (40 classes; stored 0 is none), ``segmentation37`` (without the three classes that
    are collections of others), ``segmentation13``, ``depth``, ``normals`` and ``edges``, the last two derived
    where there is no such folder.

    Raises:
        DataError: If a list is missing or empty, or a name leads elsewhere.
    """
    ids, splits, lists = _splits(root)

    def files(folder: str, classes: np.ndarray | None = None) -> FileTarget:
        return FileTarget(root, _paths(root, folder, ids), classes)

    labels = files("segmentation")
    depth = files("depth")
    normals: TargetReader = NormalsOfDepth(depth, CAMERA)
    if (root / "normals").is_dir():
        normals = files("normals")
    edges: TargetReader = EdgesOfLabels(labels, 0)
    if folder := next((name for name in ("edge", "edges") if (root / name).is_dir()), None):
        edges = files(folder)
    dense = {
        name: StoredTarget(
            SegmentationColumn(
                kind="segmentation",
                column="segmentation",
                classes=list(classes),
                first_index=1,
                ignore_index=0,
            ),
            files("segmentation", forty_to(len(classes))),
        )
        for name, classes in (
            ("segmentation", CLASSES_40),
            (f"segmentation{NAMED_40}", CLASSES_40[:NAMED_40]),
            ("segmentation13", CLASSES_13),
        )
    }
    dense |= {
        "depth": StoredTarget(DepthColumn(kind="depth", column="depth"), depth),
        "normals": StoredTarget(NormalsColumn(kind="normals", column="normals"), normals),
        "edges": StoredTarget(EdgesColumn(kind="edges", column="edge", ignore_index=-1), edges),
    }
    return Collection(
        name="nyud_mt",
        root=root,
        ids=ids,
        splits=splits,
        images=FileImages(root, _paths(root, "images", ids)),
        dense=dense,
        main=("segmentation", "depth", "normals", "edges"),
        fingerprint=fingerprint_of("nyud_mt", ids, splits, tuple(root / name for name in lists)),
    )


def _splits(root: Path) -> tuple[np.ndarray, dict[Split, np.ndarray], list[str]]:
    has_test = (root / "gt_sets" / "test.txt").is_file()
    names: dict[Split, str] = {"train": "train", "test": "test" if has_test else "val"}
    if has_test and (root / "gt_sets" / "val.txt").is_file():
        names["validation"] = "val"
    ids: list[bytes] = []
    splits: dict[Split, np.ndarray] = {}
    for split, name in names.items():
        found = read_lines(root, f"gt_sets/{name}.txt", f"lists the samples of split `{split}`")
        found = [line.strip() for line in found if line.strip()]
        for number, line in enumerate(found, 1):
            if "/" in line or "\\" in line or line.startswith("."):
                raise DataError(
                    f"Expected the names of samples in {root / 'gt_sets' / name}.txt, "
                    f"but got `{line}` in line {number}."
                )
        splits[split] = np.arange(len(ids), len(ids) + len(found))
        ids += [line.encode() for line in found]
    return np.array(ids or [b""])[: len(ids)], splits, [f"gt_sets/{name}.txt" for name in names.values()]


def _paths(root: Path, folder: str, ids: np.ndarray) -> np.ndarray:
    """Return each sample's file, whatever its ending; one that is missing gets the ending of the others."""
    known = {name.rpartition(".")[0]: name for name in names_in(root, folder)}
    ending = next(iter(known.values()), "x.npy").rpartition(".")[2]
    names = [known.get(name, f"{name}.{ending}") for name in map(bytes.decode, ids.tolist())]
    return np.array([f"{folder}/{name}".encode() for name in names])
