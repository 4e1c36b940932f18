"""Stored data in a run: caches, damaged samples, factories."""

import json
from pathlib import Path

import numpy as np
import pytest
from reference.published_sets import write_mtan

from lomt.data import Answer, MappedDataset, TargetSpec, adapt, open_dataset, write_map
from lomt.errors import DataError
from lomt.pipeline import run
from lomt.pipeline.data_source import open_split
from lomt.pipeline.parts import Parts
from lomt.recipe import load_recipe

RECIPE = Path(__file__).with_name("tiny.yaml")


@pytest.fixture
def mtan(tmp_path):
    write_mtan(tmp_path / "mtan", train=9, test=8)
    return tmp_path / "mtan"


def recipe_of(root, *overrides, **data):
    settings = {"kind": "nyuv2_mtan", "root": str(root), "size": [24, 32], **data}
    return load_recipe(str(RECIPE), [f"data={json.dumps(settings)}", *overrides])


def test_published_data_train_through_the_same_parts(mtan):
    parts = Parts(recipe_of(mtan))
    batch = next(iter(parts.loader("train", parts.recipe.train).epoch(0)))
    assert batch["segmentation"].shape == (8, 24, 32)
    assert parts.tasks["segmentation"].out_channels == 13
    assert parts.dataset("validation") is None
    assert len(Parts(recipe_of(mtan, validation_fraction=0.25)).dataset("validation")) == 2


def test_the_cache_gives_the_same_batches(mtan, tmp_path):
    cache = tmp_path / "cache"
    for split in ("train", "test"):
        write_map(open_dataset("nyuv2_mtan", mtan, split, size=(24, 32)), cache / split)
    files, mapped = Parts(recipe_of(mtan)), Parts(recipe_of(mtan, cache_dir=str(cache)))
    assert isinstance(mapped.dataset("test"), MappedDataset)
    assert files.fingerprint == mapped.fingerprint
    pairs = zip(*(p.loader("train", p.recipe.train).epoch(3) for p in (files, mapped)), strict=True)
    for one, other in pairs:
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def damage(mtan):
    for number in (1, 4):
        (mtan / "train" / "depth" / f"{number}.npy").write_bytes(b"")


def test_a_run_refuses_damaged_samples_before_it_starts(mtan, tmp_path):
    damage(mtan)
    with pytest.raises(DataError, match="2 of 9 are damaged") as caught:
        run(recipe_of(mtan), tmp_path / "run", last="train")
    assert "depth/1.npy (sample train/image/1.npy, `depth`)" in str(caught.value)
    assert not (tmp_path / "run" / "dense" / "model.safetensors").exists()


def test_told_to_skip_it_counts_them_in_the_report(mtan, tmp_path):
    damage(mtan)
    recipe = recipe_of(mtan, "train.batch_size=4", damaged="skip")
    summary = run(recipe, tmp_path / "run", last="train")
    assert summary.to_dict()["skipped_samples"] == {"train": 2}
    assert "2 damaged samples of train left out" in str(summary)
    noted = json.loads((tmp_path / "run" / "skipped.json").read_text())
    assert [Path(text.partition(" ")[0]).name for text in noted["train"]] == ["1.npy", "4.npy"]
    again = run(recipe, tmp_path / "run", last="train")
    assert again.skipped == {"train": 2}


def faces(split, size, count=4):
    """A factory, as a user writes one."""
    if split == "validation":
        return None
    scene = Answer(TargetSpec("scene", "classification", classes=("a", "b")))
    items = [(np.zeros((6, 8, 3), np.uint8), i % 2) for i in range(count)]
    return adapt(items, name="faces", size=size, image=0, targets={"scene": (1, scene)})


def nothing(split, size):
    """A factory that forgets to return something."""


def made(tmp_path, text, name):
    (tmp_path / "factories.py").write_text(text)
    data = {"kind": "factory", "size": [6, 8], "factory": f"{tmp_path / 'factories.py'}:{name}"}
    return load_recipe(str(RECIPE), [f"data={json.dumps(data)}"], check_names=False)


def test_a_factory_makes_the_splits(tmp_path):
    import inspect

    head = "import numpy as np\nfrom lomt.data import Answer, TargetSpec, adapt\n"
    recipe = made(tmp_path, head + inspect.getsource(faces), "faces")
    assert len(open_split(recipe, "train", ["scene"])) == 4
    assert open_split(recipe, "validation", ["scene"]) is None


def test_a_factory_that_makes_nothing(tmp_path):
    import inspect

    recipe = made(tmp_path, inspect.getsource(nothing), "nothing")
    with pytest.raises(
        DataError, match="to return a dataset for split `train`, such as `lomt.data.adapt` makes"
    ):
        open_split(recipe, "train", ["scene"])
