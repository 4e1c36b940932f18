"""Random changes to a sample that keep image and targets true to each other."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from lomt.data.sample import IMAGE, Sample, TargetSpec

__all__ = ["Augmentation", "adjust_colours", "flip_horizontally", "scaled_crop"]


@dataclass(frozen=True)
class Augmentation:
    """Flip, crop and enlarge a sample, and change the image's colours, at random.

    Args:
        flip: Probability of mirroring left and right. Classes that name a side do not change places.
        scale: Smallest and largest factor, at least 1, by which a random part of the sample is enlarged to
            the sample's size.
        rescale_depth: Whether depth is divided by that factor: an enlarged object looks nearer.
        brightness: The image is multiplied by a factor from ``1 - brightness`` to ``1 + brightness``.
        contrast: The image's differences from its mean are multiplied by a factor from ``1 - contrast`` to
            ``1 + contrast``.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import numpy as np
        >>> sample = {"image": np.zeros((4, 6, 3), np.uint8)}
        >>> augmentation = Augmentation(flip=0.5, scale=(1.0, 1.5), brightness=0.2)
        >>> augmentation(sample, np.random.default_rng(0), {})["image"].shape
        (4, 6, 3)
    """

    flip: float = 0.5
    scale: tuple[float, float] = (1.0, 1.0)
    rescale_depth: bool = True
    brightness: float = 0.0
    contrast: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("flip", "brightness", "contrast"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"Expected `{name}` to be from 0 to 1, but got {value}.")
        low, high = self.scale
        if not 1 <= low <= high < float("inf"):
            raise ValueError(f"Expected `scale` to be two ascending factors from 1, but got {self.scale}.")

    def __call__(self, sample: Sample, rng: np.random.Generator, targets: Mapping[str, TargetSpec]) -> Sample:
        """Return a changed sample of the same shapes; the one given is left as it was.

        Args:
            sample: The sample.
            rng: Source of randomness; six numbers are drawn, whatever the settings.
            targets: The kinds of the sample's targets.
        """
        flip, scale, top, left, brightness, contrast = rng.random(6).tolist()
        low, high = self.scale
        factor = low + (high - low) * scale
        if factor > 1:
            sample = scaled_crop(sample, targets, factor, (top, left), rescale_depth=self.rescale_depth)
        if flip < self.flip:
            sample = flip_horizontally(sample, targets)
        if self.brightness or self.contrast:
            gain = 1 + self.brightness * (2 * brightness - 1)
            spread = 1 + self.contrast * (2 * contrast - 1)
            sample = {**sample, IMAGE: adjust_colours(sample[IMAGE], gain, spread)}
        return sample


def flip_horizontally(sample: Sample, targets: Mapping[str, TargetSpec]) -> Sample:
    """Mirror a sample left and right; normals, which have an x in the image's plane, change its sign.

    Args:
        sample: The sample; not modified.
        targets: The kinds of its targets.
    """
    flipped = {**sample, IMAGE: sample[IMAGE][:, ::-1]}
    for name, target in targets.items():
        if target.kind == "normals":
            flipped[name] = np.concatenate([-sample[name][:1, :, ::-1], sample[name][1:, :, ::-1]])
        elif target.is_dense:
            flipped[name] = sample[name][..., ::-1]
    return flipped


def scaled_crop(
    sample: Sample,
    targets: Mapping[str, TargetSpec],
    factor: float,
    position: tuple[float, float],
    *,
    rescale_depth: bool = True,
) -> Sample:
    """Enlarge a part of a sample to the sample's size: the image bilinearly, targets to the nearest pixel.

    The part is ``1 / factor`` of height and width. Its corner is not rounded to whole pixels, so that image
    and targets stay aligned to a fraction of a pixel.

    Args:
        sample: The sample; not modified.
        targets: The kinds of its targets.
        factor: Factor of enlargement, at least 1.
        position: Where the part lies, from 0 (top, left) to 1 (bottom, right).
        rescale_depth: Whether depth is divided by ``factor``.
    """
    height, width = sample[IMAGE].shape[:2]
    part = (height / factor, width / factor)
    top, left = position[0] * (height - part[0]), position[1] * (width - part[1])
    box = (left, top, min(left + part[1], width), min(top + part[0], height))
    image = Image.fromarray(sample[IMAGE]).resize((width, height), Image.Resampling.BILINEAR, box=box)
    cropped = {**sample, IMAGE: np.asarray(image)}
    rows, columns = _source(top, height, factor), _source(left, width, factor)
    for name, target in targets.items():
        if target.is_dense:
            cropped[name] = sample[name].take(rows, axis=-2).take(columns, axis=-1)
        if target.kind == "depth" and rescale_depth:
            cropped[name] = cropped[name] / np.float32(factor)
    return cropped


def _source(start: float, length: int, factor: float) -> np.ndarray:
    """Return, for each new pixel, the old one in which its centre lies."""
    centres = start + (np.arange(length) + 0.5) / factor
    return np.asarray(np.minimum(centres, length - 1), np.intp)


def adjust_colours(
    image: UInt8[np.ndarray, "height width channels"], gain: float, spread: float
) -> UInt8[np.ndarray, "height width channels"]:
    r"""Multiply an image, and then its differences from its mean :math:`m`.

    .. math:: v' = m g + (v - m) g c

    where :math:`g` is ``gain`` and :math:`c` is ``spread``. Values are rounded and kept within 0 to 255.
    Exact for every pixel at the cost of 256: a table of all values is looked up.

    Args:
        image: uint8 ``(H, W, 3)``; not modified.
        gain: Factor of the brightness, at least 0.
        spread: Factor of the contrast, at least 0.
    """
    mean = float(image.mean())
    table: np.ndarray = mean * gain + (np.arange(256) - mean) * (gain * spread)
    changed: np.ndarray = np.rint(table).clip(0, 255).astype(np.uint8)[image]
    return changed
