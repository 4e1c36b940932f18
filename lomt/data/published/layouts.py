"""Which layout a folder has: the only place that knows them all."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lomt.data.image_folder import IMAGES, is_image_folder
from lomt.data.published import celebamask, cityscapes, mtfl, nyud_mt, nyuv2_mat, nyuv2_mtan, taskonomy
from lomt.data.published.collection import Collection
from lomt.errors import DataError, UnknownNameError

__all__ = ["FOLDER", "LAYOUTS", "Layout", "identify", "open_published"]

FOLDER = "folder"
"""Name of the layout with a description of its own, `dataset.yaml`, which is not among the published ones."""


@dataclass(frozen=True)
class Layout:
    """A way in which a dataset is published.

    Args:
        sign: What it is recognised by.
        recognise: Whether a path has it.
        collect: Opens the dataset.
    """

    sign: str
    recognise: Callable[[Path], bool]
    collect: Callable[[Path], Collection]


LAYOUTS: Mapping[str, Layout] = {
    "nyuv2_mat": Layout(nyuv2_mat.FILE, lambda p: nyuv2_mat.find_file(p) is not None, nyuv2_mat.collect),
    "nyuv2_mtan": Layout("train/image and train/label", nyuv2_mtan.recognise, nyuv2_mtan.collect),
    "nyud_mt": Layout("gt_sets, images and segmentation", nyud_mt.recognise, nyud_mt.collect),
    "celebamask": Layout(
        "CelebA-HQ-img and CelebAMask-HQ-mask-anno", celebamask.recognise, celebamask.collect
    ),
    "cityscapes": Layout("leftImg8bit/train", cityscapes.recognise, cityscapes.collect),
    "mtfl": Layout("training.txt and testing.txt", mtfl.recognise, mtfl.collect),
    "taskonomy": Layout("rgb with a folder for each building", taskonomy.recognise, taskonomy.collect),
}
"""The published layouts by name, in the order in which they are looked for."""


def identify(path: Path) -> str:
    """Return the name of a dataset's layout: one of `LAYOUTS`, `FOLDER`, or `IMAGES` for images and nothing known.

    Args:
        path: A folder, or the file of NYU-Depth v2.

    Raises:
        DataError: If there is nothing, or no known layout.
    """
    if not path.exists():
        raise DataError(f"Expected a dataset at {path}, but there is nothing.")
    if (path / "dataset.yaml").is_file():
        return FOLDER
    for name, layout in LAYOUTS.items():
        if layout.recognise(path):
            return name
    if is_image_folder(path):
        return IMAGES
    signs = "; ".join(f"{layout.sign} ({name})" for name, layout in LAYOUTS.items())
    raise DataError(
        f"Expected {path} to hold a dataset, known by dataset.yaml (folder); {signs}; or by images alone ({IMAGES}); "
        "but got none of these. Unpack archives first, and give the folder that holds these names."
    )


def open_published(layout: str, path: Path) -> Collection:
    """Open a dataset of a known layout.

    Args:
        layout: A name among `LAYOUTS`.
        path: Its folder, or the file of NYU-Depth v2.

    Raises:
        UnknownNameError: If there is no such layout.
        DataError: If the dataset is not of this layout, or is damaged.
    """
    if layout not in LAYOUTS:
        raise UnknownNameError("layout", layout, LAYOUTS)
    if not LAYOUTS[layout].recognise(path):
        raise DataError(
            f"Expected {path} to have layout {layout}, known by {LAYOUTS[layout].sign}, but it does not."
        )
    return LAYOUTS[layout].collect(path)
