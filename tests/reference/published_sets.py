"""Small datasets written in the layouts in which the real ones are published, with what stands in them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (24, 32)
PARTS = (
    "skin l_brow r_brow l_eye r_eye eye_g l_ear r_ear ear_r nose mouth u_lip l_lip neck neck_l cloth hair hat"
)


def rng_of(seed):
    return np.random.default_rng(seed)


def picture(rng, size=SIZE):
    """A smooth image: what JPEG keeps nearly as it is."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    shift = rng.integers(0, 100, 3)
    return np.stack([(rows * 3 + shift[0]), (columns * 2 + shift[1]), (rows + columns + shift[2])], 2).astype(
        np.uint8
    )


def blocks(rng, values, size=SIZE):
    """Label regions: rectangles of one of some values."""
    labels = np.empty(size, np.int64)
    for row in range(0, size[0], 8):
        for column in range(0, size[1], 8):
            labels[row : row + 8, column : column + 8] = rng.choice(values)
    return labels


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def write_nyuv2_mat(root: Path, count=6, split=True, size=SIZE):
    """The official file: MATLAB's arrays are column-major, so HDF5 sees their axes reversed."""
    import h5py
    from scipy.io import savemat

    rng = rng_of(1)
    images = np.stack([picture(rng, size) for _ in range(count)])
    labels = np.stack([blocks(rng, [0, 3, 21, 5, 4, 8, 12, 1, 894], size) for _ in range(count)]).astype(
        np.uint16
    )
    depths = rng.uniform(1, 9, (count, *size)).astype(np.float32)
    raw = np.where(rng.random(depths.shape) < 0.2, 0, depths).astype(np.float32)
    names = [f"object {i}" for i in range(1, 895)]
    scenes = ["kitchen" if i % 2 else "home_office" for i in range(count)]
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w", userblock_size=512) as file:
        file["images"] = images.transpose(0, 3, 2, 1)
        for name, maps in (("labels", labels), ("depths", depths), ("rawDepths", raw)):
            file[name] = maps.transpose(0, 2, 1)
        for name, texts in (("names", names), ("sceneTypes", scenes)):
            cells = []
            for number, text in enumerate(texts):
                codes = np.array([[ord(c)] for c in text], np.uint16)
                cells.append(file.create_dataset(f"#refs#/{name}{number}", data=codes).ref)
            file.create_dataset(name, (1, len(cells)), dtype=h5py.ref_dtype)[0] = cells
    if split:
        numbers = np.arange(1, count + 1, dtype=np.uint16)[:, None]
        savemat(root / "splits.mat", {"trainNdxs": numbers[:-2], "testNdxs": numbers[-2:]})
    return {"images": images, "labels": labels, "depths": depths, "raw": raw, "scenes": scenes}


def write_mtan(root: Path, train=3, test=2, normals=True):
    rng = rng_of(2)
    truth = {}
    for split, count in (("train", train), ("val", test)):
        for i in range(count):
            normal = rng.normal(size=(*SIZE, 3))
            truth[split, i] = {
                "image": picture(rng) / 255,
                "label": blocks(rng, range(-1, 13)).astype(np.float64),
                "depth": rng.uniform(1, 9, (*SIZE, 1)),
                "normal": normal / np.linalg.norm(normal, axis=2, keepdims=True),
            }
            for name, array in truth[split, i].items():
                if name != "normal" or normals:
                    save(root / split / name / f"{i}.npy", array)
    return truth


def write_nyud_mt(root: Path, train=3, test=2, derived=False):
    rng = rng_of(3)
    truth = {}
    for i in range(train + test):
        normal = rng.normal(size=(*SIZE, 3)).astype(np.float32)
        truth[i] = {
            "images": picture(rng),
            "segmentation": blocks(rng, range(0, 41)).astype(np.uint8),
            "depth": rng.uniform(1, 9, SIZE).astype(np.float32),
            "normals": normal / np.linalg.norm(normal, axis=2, keepdims=True),
            "edge": (rng.random(SIZE) < 0.1).astype(np.float32),
        }
        endings = {"images": "jpg", "segmentation": "png"}
        for name, array in truth[i].items():
            if not (derived and name in ("normals", "edge")):
                save(root / name / f"{i + 1:04d}.{endings.get(name, 'npy')}", array)
    (root / "gt_sets").mkdir()
    for name, numbers in (("train", range(1, train + 1)), ("val", range(train + 1, train + test + 1))):
        (root / "gt_sets" / f"{name}.txt").write_text("".join(f"{n:04d}\n" for n in numbers))
    return truth


def write_celebamask(root: Path, count=6):
    rng = rng_of(4)
    names = ["5_o_Clock_Shadow", "Male", "Smiling", "Wearing_Lipstick", "Arched_Eyebrows", "High_Cheekbones"]
    names += ["Big_Lips", *(f"Other_{i}" for i in range(33))]
    truth = {"masks": [], "attributes": rng.choice([-1, 1], (count, 40)), "names": names}
    for i in range(count):
        save(root / "CelebA-HQ-img" / f"{i}.jpg", picture(rng, (32, 32)))
        present = ["skin", "hair", "nose", *rng.choice(PARTS.split()[:12], 3, replace=False)]
        masks = {part: (rng.random((16, 16)) < 0.5) for part in present}
        for part, mask in masks.items():
            path = root / "CelebAMask-HQ-mask-anno" / str(i // 2000) / f"{i:05d}_{part}.png"
            save(path, np.repeat(np.where(mask, 255, 0).astype(np.uint8)[:, :, None], 3, axis=2))
        truth["masks"].append(masks)
    lines = [f"{i}.jpg  {' '.join(map(str, row))}" for i, row in enumerate(truth["attributes"])]
    (root / "CelebAMask-HQ-attribute-anno.txt").write_text(
        "\n".join([str(count), " ".join(names), *lines]) + "\n"
    )
    origins = [100, 162770, 162771, 182637, 182638, 5][:count]
    rows = [f"{i}\t\t{n}\t\t{n + 1:06d}.jpg" for i, n in enumerate(origins)]
    (root / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join(["idx orig_idx orig_file", *rows]) + "\n")
    return truth


def write_taskonomy(root: Path, layout="{domain}/taskonomy/{building}"):
    rng = rng_of(5)
    truth = {}
    for building in ("allensville", "darden", "ihlen"):
        for view in range(2):
            stem = f"point_{view + 3}_view_{view}"
            values = {
                "rgb": picture(rng),
                "segment_semantic": blocks(rng, range(0, 18)).astype(np.uint8),
                "normal": rng.integers(0, 256, (*SIZE, 3), np.uint8),
                "depth_zbuffer": np.where(
                    rng.random(SIZE) < 0.1, 65535, rng.integers(300, 5000, SIZE)
                ).astype(np.uint16),
                "keypoints2d": rng.integers(0, 65536, SIZE).astype(np.uint16),
                "edge_texture": rng.integers(0, 65536, SIZE).astype(np.uint16),
            }
            truth[building, stem] = values
            for domain, array in values.items():
                folder = layout.format(domain=domain, building=building)
                name = domain.replace("segment_semantic", "segmentsemantic")
                save(root / folder / f"{stem}_domain_{name}.png", array)
    return truth


def write_cityscapes(root: Path, camera=False):
    rng = rng_of(6)
    truth = {}
    for split, city, count in (("train", "ulm", 3), ("val", "bonn", 2)):
        for i in range(count):
            stem = f"{city}_{i:06d}_000019"
            values = {
                "leftImg8bit": picture(rng),
                "labelIds": blocks(rng, range(0, 34)).astype(np.uint8),
                "disparity": np.where(rng.random(SIZE) < 0.2, 0, rng.integers(2, 30000, SIZE)).astype(
                    np.uint16
                ),
            }
            truth[split, stem] = values
            save(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", values["leftImg8bit"])
            save(root / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png", values["labelIds"])
            save(root / "disparity" / split / city / f"{stem}_disparity.png", values["disparity"])
            if camera:
                path = root / "camera" / split / city / f"{stem}_camera.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                content = {"extrinsic": {"baseline": 0.25}, "intrinsic": {"fx": 2000.0}}
                path.write_text(json.dumps(content))
    return truth


def write_mtfl(root: Path):
    rng = rng_of(7)
    truth = {}
    for name, folder, count in (("training", "lfw_5590", 3), ("testing", "AFLW", 2)):
        lines = []
        for i in range(count):
            save(root / folder / f"face_{i}.jpg", picture(rng, (40, 20)))
            x, y = rng.uniform(0, 19, 5).round(2), rng.uniform(0, 39, 5).round(2)
            answers = [rng.integers(1, 3), rng.integers(1, 3), rng.integers(1, 3), rng.integers(1, 6)]
            truth[name, i] = {"x": x, "y": y, "answers": np.array(answers)}
            lines.append(f" {folder}\\face_{i}.jpg {' '.join(map(str, [*x, *y, *answers]))} ")
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return truth


WRITERS = {
    "nyuv2_mat": write_nyuv2_mat,
    "nyuv2_mtan": write_mtan,
    "nyud_mt": write_nyud_mt,
    "celebamask": write_celebamask,
    "cityscapes": write_cityscapes,
    "mtfl": write_mtfl,
    "taskonomy": write_taskonomy,
}
