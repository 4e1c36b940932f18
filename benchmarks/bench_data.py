"""How fast samples become batches beside plain loaders of the same files, and what reading them costs in memory.

Run:      LOMT_DATA=/folder/that/holds/nyuv2 python benchmarks/bench_data.py --output benchmarks/results/data.json
Expected: at most 1.10 times the time of a plain loader with torchvision's transformations for the same decoded files,
          at most 1.20 times that of indexing NumPy memory maps with the cache, the same memory after ten epochs as
          after two, and a table of a million rows open in 3 s and 500 MB; exit status 1 if a target is missed.

Arms take turns in every round and ratios are medians over rounds of neighbours in time. `cpu` ratios, of seconds of
processor time in one process, hold on a busy machine as well; `wall` ratios, with two worker processes on either side,
are for an idle one. The table is opened in a fresh process; its memory is counted above that of the imported library.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as F

from lomt.data import Augmentation, BatchLoader, Dataset, Subset, open_folder, write_map

SIZE, BATCH = (96, 128), 16
MOST = {"images": 1.10, "all files": 1.10, "cache": 1.20}
MOST_TABLE_S, MOST_TABLE_MB, MOST_GROWTH_MB = 3.0, 500.0, 10.0
DENSE = ("segmentation", "depth", "normals", "edges")
FLIP = Augmentation(flip=0.5)


class PlainFiles(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Images, and maps if asked for, as one writes it by hand: open, resize, flip, to tensor.

    Args:
        folder: The dataset.
        count: How many of its training images.
        maps: Names of the folders with maps.
    """

    def __init__(self, folder: Path, count: int, maps: tuple[str, ...]) -> None:
        rows = [line.split(",") for line in (folder / "samples.csv").read_text().splitlines()[1:]]
        self.ids = [row[0] for row in rows if row[1] == "train"][:count]
        self.folder, self.maps = folder, maps

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Read a sample."""
        flips = bool(torch.rand(()) < 0.5)
        with Image.open(self.folder / "images" / f"{self.ids[index]}.jpg") as file:
            image = F.resize(file.convert("RGB"), list(SIZE))
        sample = {"image": F.to_tensor(F.hflip(image) if flips else image)}
        for name in self.maps:
            with Image.open(self.folder / name / f"{self.ids[index]}.png") as file:
                stored = file.resize(SIZE[::-1], Image.Resampling.NEAREST)
            values = torch.from_numpy(np.array(F.hflip(stored) if flips else stored))
            sample[name] = values.long() if name == "segmentation" else values.float()
        return sample


def main() -> int:
    """Measure, print and store; tell by the exit status whether the targets are met."""
    options = _options()
    if options.table is not None:
        print(json.dumps(open_table(options.table)))
        return 0
    torch.set_num_threads(1)
    folder = Path(os.environ.get("LOMT_DATA", ".")) / "nyuv2"
    with tempfile.TemporaryDirectory() as scratch:
        result = {
            "environment": _environment(),
            "settings": {"size": SIZE, "batch": BATCH, "rounds": options.rounds, "samples": options.samples},
            "loaders": compare_loaders(folder, Path(scratch), options.rounds, options.samples),
            "memory": measure_memory(folder, Path(scratch), options.samples),
            "table": measure_table(Path(scratch), options.rows),
        }
    missed = _missed(result)
    result["missed"] = missed
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    return 1 if missed else 0


def compare_loaders(folder: Path, scratch: Path, rounds: int, count: int) -> dict[str, Any]:
    """Time an epoch of each loader beside its plain counterpart."""
    images = _first(open_folder(folder, "train", size=SIZE, targets=["scene"]), count)
    files = _first(open_folder(folder, "train", size=SIZE, targets=DENSE), count)
    mapped = write_map(files, scratch / "cache")
    pairs: dict[str, tuple[Callable[[int], Any], Callable[[int], Any]]] = {
        "images": (lambda w: _epoch(images, w), lambda w: _plain(PlainFiles(folder, count, ()), w)),
        "all files": (lambda w: _epoch(files, w), lambda w: _plain(PlainFiles(folder, count, DENSE), w)),
        "cache": (lambda w: _epoch(mapped, w), lambda w: _raw_maps(scratch / "cache")),
    }
    found: dict[str, Any] = {}
    for name, (ours, plain) in pairs.items():
        kinds = {"cpu": (time.process_time, 0)}
        if name != "cache":
            kinds["wall"] = (time.perf_counter, 2)
        found[name] = {
            kind: _ratio(partial(ours, workers), partial(plain, workers), clock, rounds, count)
            for kind, (clock, workers) in kinds.items()
        }
    return found


def _ratio(
    ours: Callable[[], Any], plain: Callable[[], Any], clock: Callable[[], float], rounds: int, count: int
) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {"lomt": [], "plain": []}
    ours(), plain()
    for number in range(rounds):
        arms = [("lomt", ours), ("plain", plain)]
        for name, epoch in arms if number % 2 else arms[::-1]:
            began = clock()
            epoch()
            seconds[name].append(clock() - began)
    ratios = [a / b for a, b in zip(seconds["lomt"], seconds["plain"], strict=True)]
    return {
        "ratio": statistics.median(ratios),
        "ratios": [round(ratio, 3) for ratio in sorted(ratios)],
        "images_a_second": {name: count / statistics.median(own) for name, own in seconds.items()},
    }


def _epoch(dataset: Dataset, workers: int) -> None:
    for _ in BatchLoader(dataset, BATCH, shuffle=True, augmentation=FLIP, workers=workers).epoch(0):
        pass


def _plain(dataset: PlainFiles, workers: int) -> None:
    for _ in torch.utils.data.DataLoader(dataset, BATCH, shuffle=True, num_workers=workers):
        pass


def _raw_maps(folder: Path) -> None:
    """Index memory maps batch by batch, and bring them into a network's types."""
    for _ in _raw_batches(
        {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("image", *DENSE)}
    ):
        pass


def _raw_batches(maps: dict[str, np.ndarray]) -> Iterator[dict[str, Tensor]]:
    order = np.random.default_rng(0).permutation(len(maps["image"]))
    flips = np.random.default_rng(1).random(len(order)) < 0.5
    for start in range(0, len(order), BATCH):
        batch = {}
        for name, values in maps.items():
            rows = []
            for index in order[start : start + BATCH]:
                row = values[index]
                if flips[index]:
                    row = row[:, ::-1] if name == "image" else row[..., ::-1]
                rows.append(row)
            stacked = np.stack(rows)
            if name == "image":
                stacked = stacked.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
            dtype = np.int64 if name == "segmentation" else np.float32
            batch[name] = torch.from_numpy(np.ascontiguousarray(stacked, dtype))
        yield batch


def measure_memory(folder: Path, scratch: Path, count: int) -> dict[str, Any]:
    """Follow memory that is this process's own over ten epochs of files and of the cache."""
    from lomt.data import open_map

    files = _first(open_folder(folder, "train", size=SIZE, targets=DENSE), count)
    found = {}
    for name, dataset in (("files", files), ("cache", open_map(scratch / "cache"))):
        own = []
        for _ in range(10):
            _epoch(dataset, 0)
            memory = psutil.Process().memory_info()
            own.append((memory.rss - memory.shared) / 1e6)
        found[name] = {"own_mb_by_epoch": [round(value, 1) for value in own], "growth_mb": own[-1] - own[1]}
    return found


def measure_table(scratch: Path, rows: int) -> dict[str, Any]:
    """Open a table of a million rows in a fresh process, twice; the faster one counts."""
    root = scratch / "table"
    write_table(root, rows)
    command = [sys.executable, __file__, "--table", str(root)]
    runs = [json.loads(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(2)]
    return {"rows": rows, **min(runs, key=lambda run: float(run["cpu_s"]))}


def write_table(root: Path, rows: int) -> None:
    """Write a folder dataset with many rows that share a thousand empty files."""
    (root / "images").mkdir(parents=True)
    for number in range(1000):
        (root / "images" / f"{number:06d}.jpg").touch()
    (root / "dataset.yaml").write_text(
        "name: big\nsplits: {train: train, test: test}\ntargets:\n"
        "  scene: {kind: classification, column: scene, classes: [kitchen, office]}\n"
        "  pose: {kind: regression, columns: [x, y]}\n"
    )
    with (root / "samples.csv").open("w") as file:
        file.write("id,split,image,scene,x,y\n")
        for i in range(rows):
            split, scene = "train" if i % 5 else "test", "kitchen" if i % 3 else "office"
            file.write(f"{i:07d},{split},images/{i % 1000:06d}.jpg,{scene},{i * 0.001:.3f},{i % 977}\n")


def open_table(root: Path) -> dict[str, float]:
    """Open it and tell seconds and memory."""
    before = psutil.Process().memory_info().rss
    wall, cpu = time.perf_counter(), time.process_time()
    dataset = open_folder(root, "train", size=SIZE)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "train_rows": len(dataset),
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "own_mb": (peak - before) / 1e6,
        "library_mb": before / 1e6,
    }


def _first(dataset: Dataset, count: int) -> Subset:
    return Subset(dataset, np.arange(min(count, len(dataset))))


def _missed(result: dict[str, Any]) -> list[str]:
    missed = [
        f"{name}: {result['loaders'][name]['cpu']['ratio']:.2f} times the plain loader, at most {most}"
        for name, most in MOST.items()
        if result["loaders"][name]["cpu"]["ratio"] > most
    ]
    for name, own in result["memory"].items():
        if own["growth_mb"] > MOST_GROWTH_MB:
            missed.append(f"memory of {name} grows by {own['growth_mb']:.1f} MB over eight epochs")
    table = result["table"]
    if table["cpu_s"] > MOST_TABLE_S or table["own_mb"] > MOST_TABLE_MB:
        missed.append(f"the table takes {table['cpu_s']:.1f} s and {table['own_mb']:.0f} MB")
    return missed


def _environment() -> dict[str, Any]:
    return {
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "load_average": os.getloadavg(),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of epochs")
    parser.add_argument("--samples", type=int, default=320, help="images an epoch")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the table")
    parser.add_argument("--table", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
