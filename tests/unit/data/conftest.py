"""A small folder dataset with a target of every kind, and what breaks it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HEIGHT, WIDTH = 12, 16

DESCRIPTION = """\
name: tiny
samples: samples.csv
image: {column: image}
splits: {train: train, test: test}
targets:
  parts: {kind: segmentation, column: parts, classes: [a, b, c], ignore_index: 255}
  depth: {kind: depth, column: depth, scale: 0.001}
  normals: {kind: normals, column: normals}
  edges: {kind: edges, column: edges, ignore_index: 255}
  heat: {kind: keypoints, column: heat, channels: 2}
  scene: {kind: classification, column: scene, classes: [kitchen, office]}
  labels: {kind: multilabel, column: labels, classes: [old, new, red]}
  flags: {kind: multilabel, columns: [is_big, is_far]}
  pose: {kind: regression, columns: [yaw, pitch]}
"""

HEADER = "id,split,image,parts,depth,normals,edges,heat,scene,labels,is_big,is_far,yaw,pitch"
LABEL_CELLS = ("kitchen,old|red,1,0,0.5,-2", "office,,0,,1.5,", ",new,1,1,,3e-1")


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    """Six samples of 12x16, four of them train; images random, targets of several files and sizes."""
    rng = np.random.default_rng(0)
    lines = [HEADER]
    for folder in ("images", "parts", "depth", "normals", "edges", "heat"):
        (tmp_path / folder).mkdir()
    for i in range(6):
        stored = {
            f"images/{i}.png": rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8),
            f"parts/{i}.png": rng.choice(np.array([0, 1, 2, 255], np.uint8), (HEIGHT, WIDTH)),
            f"depth/{i}.png": rng.integers(0, 5000, (HEIGHT, WIDTH)).astype(np.uint16),
            f"normals/{i}.png": rng.integers(0, 256, (HEIGHT // 2, WIDTH // 2, 3), np.uint8),
            f"edges/{i}.png": rng.choice(np.array([0, 1, 255], np.uint8), (HEIGHT, WIDTH)),
            f"heat/{i}.npy": rng.random((2, HEIGHT, WIDTH), np.float32),
        }
        for name, array in stored.items():
            save(tmp_path / name, array)
        split = "test" if i in (2, 5) else "train"
        lines.append(f"{i},{split},{','.join(stored)},{LABEL_CELLS[i % 3]}")
    (tmp_path / "samples.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "dataset.yaml").write_text(DESCRIPTION, encoding="utf-8")
    return tmp_path


@pytest.fixture
def edit(tiny_folder: Path) -> Callable[[str, str, str], None]:
    """Replace a text in a file of the tiny folder, everywhere in it."""

    def replace(name: str, old: str, new: str) -> None:
        path = tiny_folder / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    return replace


def save(path: Path, array: np.ndarray) -> None:
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)
