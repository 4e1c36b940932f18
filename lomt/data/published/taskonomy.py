"""Taskonomy, and its tiny part, as downloaded: one folder a domain, in it (or around it) one a building.

Known are ``<domain>/taskonomy/<building>``, ``<domain>/<building>``, ``<building>/<domain>`` and, for a single
building, ``<domain>``; files are named ``point_<p>_view_<v>_domain_<name>.png`` or ``.npy``.

References:
    Taskonomy: Disentangling Task Transfer Learning, Zamir, Sax, Shen, Guibas, Malik, Savarese, 2018,
    https://arxiv.org/abs/1804.08328; https://github.com/StanfordVL/taskonomy (domains, units, tiny split).
    Which Tasks Should Be Learned Together in Multi-task Learning?, Standley et al., 2020,
    https://arxiv.org/abs/1905.07553, and AdaShare, Sun et al., 2020, https://arxiv.org/abs/1911.12423 (the five
    tasks).
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lomt.data.columns import DenseColumn, DepthColumn, KeypointsColumn, NormalsColumn, SegmentationColumn
from lomt.data.inside import names_in, subfolders
from lomt.data.published.collection import Collection, FileImages, FileTarget, StoredTarget
from lomt.data.published.fingerprint import fingerprint_of
from lomt.data.sample import Split
from lomt.errors import DataError

__all__ = ["BUILDINGS", "CLASSES", "collect", "recognise"]

CLASSES = (
    *("background", "bottle", "chair", "couch", "plant", "bed", "dining table", "toilet", "tv", "microwave"),
    *("oven", "toaster", "sink", "refrigerator", "book", "clock", "vase"),
)
BUILDINGS: dict[Split, tuple[str, ...]] = {
    "train": (
        *("allensville", "beechwood", "benevolence", "coffeen", "cosmos", "forkland", "hanson", "hiteman"),
        *(
            "klickitat",
            "lakeville",
            "leonardo",
            "lindenwood",
            "marstons",
            "merom",
            "mifflinburg",
            "newfields",
        ),
        *("onaga", "pinesdale", "pomaria", "ranchester", "shelbyville", "stockman", "tolstoy", "wainscott"),
        "woodbine",
    ),
    "validation": ("collierville", "corozal", "darden", "markleeville", "wiconisco"),
    "test": ("ihlen", "mcdade", "muleshoe", "noxapater", "uvalda"),
}
"""Of the tiny split."""

_FOLDERS = {
    "rgb": ("rgb",),
    "segmentation": ("segment_semantic", "segmentsemantic"),
    "normals": ("normal",),
    "depth_zbuffer": ("depth_zbuffer",),
    "depth_euclidean": ("depth_euclidean",),
    "keypoints2d": ("keypoints2d",),
    "edge_texture": ("edge_texture",),
}
_DEPTH = {"scale": 1 / 512, "invalid": 65535.0}
_COLUMNS: dict[str, DenseColumn] = {
    "segmentation": SegmentationColumn(
        kind="segmentation", column="segmentation", classes=list(CLASSES), first_index=1, ignore_index=0
    ),
    "normals": NormalsColumn(kind="normals", column="normals"),
    "depth_zbuffer": DepthColumn(kind="depth", column="depth_zbuffer", **_DEPTH),
    "depth_euclidean": DepthColumn(kind="depth", column="depth_euclidean", **_DEPTH),
    "keypoints2d": KeypointsColumn(kind="keypoints", column="keypoints2d"),
    "edge_texture": KeypointsColumn(kind="keypoints", column="edge_texture"),
}
_NAME = re.compile(r"(point_\d+_view_\d+)_domain_\w+\.(?:png|npy)")


def recognise(root: Path) -> bool:
    """Return whether a folder has this layout."""
    return next(_places(root, "rgb"), None) is not None


def collect(root: Path) -> Collection:
    """Open the folder.

    Targets are the domains that are there: ``segmentation`` (17 classes; stored 0, uncertain, is none),
    ``normals``, ``depth_zbuffer`` and ``depth_euclidean`` (metres), ``keypoints2d`` and ``edge_texture`` (both
    of kind keypoints: responses from 0 to 1). A sample is an image; a target's file that is missing is damage.

    Splits are those of the tiny part, by building. Other buildings belong to no split.

    Raises:
        DataError: If no building is of the tiny part, or a name leads elsewhere.
    """
    found = {domain: _files(root, domain) for domain in _FOLDERS}
    images = found.pop("rgb")
    keys = sorted(images)
    known = {building: split for split, names in BUILDINGS.items() for building in names}
    of_split = [known.get(building.lower()) for building, _ in keys]
    splits = {
        split: np.array([i for i, own in enumerate(of_split) if own == split], np.int64)
        for split in BUILDINGS
    }
    if not any(map(len, splits.values())):
        buildings = ", ".join(sorted({building or "." for building, _ in keys})[:10])
        raise DataError(
            f"Expected buildings of Taskonomy's tiny split in {root}, such as allensville, but got {buildings}."
        )
    dense = {}
    for name, files in found.items():
        if not files:
            continue
        (building, stem), example = next(iter(files.items()))
        pattern = example.replace(building, "{building}", 1) if building else example
        pattern = pattern.replace(stem, "{stem}")
        paths = [files.get(key) or pattern.format(building=key[0], stem=key[1]) for key in keys]
        dense[name] = StoredTarget(
            _COLUMNS[name], FileTarget(root, np.array([path.encode() for path in paths]))
        )
    ids = np.array([images[key].encode() for key in keys])
    return Collection(
        name="taskonomy",
        root=root,
        ids=ids,
        splits=splits,
        images=FileImages(root, ids),
        dense=dense,
        main=tuple(dense),
        fingerprint=fingerprint_of("taskonomy", ids, splits),
    )


def _places(root: Path, domain: str) -> Iterator[tuple[str, str]]:
    """Yield building and folder (below the root) of a domain."""
    folders = subfolders(root)
    for name in (name for name in _FOLDERS[domain] if name in folders):
        inner = f"{name}/taskonomy" if (root / name / "taskonomy").is_dir() else name
        buildings = subfolders(root, inner)
        yield from ((building, f"{inner}/{building}") for building in buildings)
        if not buildings and any(map(_NAME.fullmatch, names_in(root, name))):
            yield "", name
    domains = {name for names in _FOLDERS.values() for name in names}
    for building in folders:
        for name in _FOLDERS[domain]:
            if building not in domains and (root / building / name).is_dir():
                yield building, f"{building}/{name}"


def _files(root: Path, domain: str) -> dict[tuple[str, str], str]:
    """Return the path of each file of a domain by building and point."""
    files = {}
    for building, folder in _places(root, domain):
        building = building or root.name
        for name in names_in(root, folder):
            if match := _NAME.fullmatch(name):
                files[building, match[1]] = f"{folder}/{name}"
    return files
