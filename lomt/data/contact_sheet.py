"""A picture of some samples with every target drawn, for people to look at."""

import colorsys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from lomt.atomic_file import write_atomically
from lomt.data.sample import IMAGE, Dataset, Sample, TargetKind, TargetSpec

__all__ = ["DRAWINGS", "contact_sheet", "draw_target", "save_sheet"]

_GAP, _HEADING, _LINE = 4, 16, 12
_TEXT_COLOUR, _PAPER = (20, 20, 20), (255, 255, 255)
_NO_LABEL = (70, 70, 70)
# dark blue, violet, red, orange, yellow: lighter from least to most, also in grey
_RAMP = np.array([(13, 8, 135), (126, 3, 168), (204, 71, 120), (248, 149, 64), (240, 249, 33)], np.float64)


def contact_sheet(dataset: Dataset, indices: Sequence[int]) -> Image.Image:
    """Draw samples in rows: the image, every dense target, and a text with all other answers.

    What has no label is dark grey. Segmentation has a colour a class, named below; depth and heat maps go from
    dark blue (least of the sample) to yellow (most); normals are RGB with -1 to 1 as 0 to 255; edges are white.

    Args:
        dataset: Where samples come from; of one size.
        indices: Which samples, at least one.

    Raises:
        DataError: If a sample is damaged.
    """
    samples = [dataset.sample(index) for index in indices]
    dense = [name for name, spec in dataset.targets.items() if spec.is_dense]
    answers = [name for name, spec in dataset.targets.items() if not spec.is_dense]
    height, width = samples[0][IMAGE].shape[:2]
    columns = [IMAGE, *dense, *(["answers"] if answers else [])]
    legends = {name: _legend(dataset.targets[name], width) for name in dense}
    bottom = max((len(lines) for lines in legends.values()), default=0) * _LINE
    sheet = Image.new(
        "RGB",
        (_GAP + len(columns) * (width + _GAP), _HEADING + len(samples) * (height + _GAP) + bottom + _GAP),
        _PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(columns):
        left = _GAP + column * (width + _GAP)
        draw.text((left, 2), name[: max(width // 6, 1)], fill=_TEXT_COLOUR)
        for row, (index, sample) in enumerate(zip(indices, samples, strict=True)):
            top = _HEADING + row * (height + _GAP)
            if name == "answers":
                texts = [_answer(sample, dataset.targets[answer]) for answer in answers]
                _write(draw, (left, top), [f"sample {index}", *texts], width, height)
            else:
                tile = sample[IMAGE] if name == IMAGE else draw_target(sample[name], dataset.targets[name])
                sheet.paste(Image.fromarray(np.ascontiguousarray(tile)), (left, top))
        _colours(draw, legends.get(name, []), left, _HEADING + len(samples) * (height + _GAP))
    return sheet


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Write a sheet as PNG, whole or not at all."""
    write_atomically(path, lambda partial: sheet.save(partial, format="PNG"))


def draw_target(values: np.ndarray, spec: TargetSpec) -> UInt8[np.ndarray, "height width 3"]:
    """Draw a dense target in colours.

    Args:
        values: The target in its convention.
        spec: The target.
    """
    return DRAWINGS[spec.kind](values, spec)


def class_colours(count: int) -> UInt8[np.ndarray, "count 3"]:
    """Return colours far from each other: hues by the golden angle, in three shades."""
    turns = [
        (i * 0.618034 % 1, (0.55, 0.95, 0.75)[i % 3], (0.95, 0.75, 0.55)[i // 3 % 3]) for i in range(count)
    ]
    return np.array([[round(255 * part) for part in colorsys.hsv_to_rgb(*turn)] for turn in turns], np.uint8)


def _segmentation(values: np.ndarray, spec: TargetSpec) -> np.ndarray:
    colours = np.vstack([np.array([_NO_LABEL], np.uint8), class_colours(len(spec.classes))])
    return np.asarray(colours[values.astype(np.intp) + 1])


def _depth(values: np.ndarray, spec: TargetSpec) -> np.ndarray:
    return _ramp(values[0].astype(np.float32), values[0] > 0)


def _keypoints(values: np.ndarray, spec: TargetSpec) -> np.ndarray:
    heat = values.astype(np.float32).max(axis=0)
    return _ramp(heat, heat >= 0)


def _ramp(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    least, most = values.min(where=known, initial=np.inf), values.max(where=known, initial=-np.inf)
    share = np.where(known, (values - least) / max(most - least, 1e-9), 0) if known.any() else values * 0
    stops = np.linspace(0, 1, len(_RAMP))
    drawn = np.stack([np.interp(share, stops, _RAMP[:, channel]) for channel in range(3)], axis=2)
    drawn[~known] = _NO_LABEL
    return np.rint(drawn).astype(np.uint8)


def _normals(values: np.ndarray, spec: TargetSpec) -> np.ndarray:
    drawn = np.rint((values.astype(np.float32).transpose(1, 2, 0) + 1) * 127.5).clip(0, 255).astype(np.uint8)
    drawn[~values.any(axis=0)] = _NO_LABEL
    return np.asarray(drawn)


def _edges(values: np.ndarray, spec: TargetSpec) -> np.ndarray:
    return np.asarray(
        np.array([_NO_LABEL, (0, 0, 0), (255, 255, 255)], np.uint8)[values[0].astype(np.intp) + 1]
    )


DRAWINGS: Mapping[TargetKind, Callable[[np.ndarray, TargetSpec], np.ndarray]] = {
    "segmentation": _segmentation,
    "depth": _depth,
    "normals": _normals,
    "edges": _edges,
    "keypoints": _keypoints,
}
"""By kind of dense target."""


def _answer(sample: Sample, spec: TargetSpec) -> str:
    values = sample[spec.name]
    if spec.kind == "classification":
        return f"{spec.name}: {spec.classes[int(values)] if values >= 0 else '-'}"
    if spec.kind == "multilabel":
        held = [name for name, value in zip(spec.classes, values, strict=True) if value == 1]
        return f"{spec.name}: {', '.join(held) or '-'}"
    return f"{spec.name}: {' '.join(f'{value:.3g}' for value in values)}"


def _write(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], texts: Sequence[str], width: int, height: int
) -> None:
    """Write texts, their words broken to a tile's width, as many lines as it has room for."""
    lines = []
    for text in texts:
        line = ""
        for word in text.split(" "):
            longer = f"{line} {word}".strip()
            if line and draw.textlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    for number, line in enumerate(lines[: max(height // _LINE, 1)]):
        draw.text((place[0], place[1] + number * _LINE), line, fill=_TEXT_COLOUR)


def _legend(spec: TargetSpec, width: int) -> list[tuple[str, tuple[int, int, int]]]:
    if spec.kind != "segmentation":
        return []
    most = max(width // 6 - 3, 1)
    colours = class_colours(len(spec.classes)).tolist()
    return [(name[:most], tuple(colour)) for name, colour in zip(spec.classes, colours, strict=True)][:40]


def _colours(
    draw: ImageDraw.ImageDraw, legend: Sequence[tuple[str, tuple[int, int, int]]], left: int, top: int
) -> None:
    for number, (name, colour) in enumerate(legend):
        at = top + number * _LINE
        draw.rectangle((left, at + 1, left + _LINE - 3, at + _LINE - 2), fill=colour)
        draw.text((left + _LINE, at), name, fill=_TEXT_COLOUR)
