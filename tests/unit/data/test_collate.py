import numpy as np
import torch

from lomt.data import collate, open_folder


def test_conventions(tiny_folder):
    dataset = open_folder(tiny_folder, "train", size=(6, 8))
    samples = [dataset.sample(i) for i in range(4)]
    batch = collate(samples, dataset.targets)
    assert {name: (tuple(values.shape), values.dtype) for name, values in batch.items()} == {
        "image": ((4, 3, 6, 8), torch.float32),
        "parts": ((4, 6, 8), torch.int64),
        "depth": ((4, 1, 6, 8), torch.float32),
        "normals": ((4, 3, 6, 8), torch.float32),
        "edges": ((4, 1, 6, 8), torch.float32),
        "heat": ((4, 2, 6, 8), torch.float32),
        "scene": ((4,), torch.int64),
        "labels": ((4, 3), torch.float32),
        "flags": ((4, 2), torch.float32),
        "pose": ((4, 2), torch.float32),
    }
    for row, sample in enumerate(samples):
        np.testing.assert_allclose(
            batch["image"][row].numpy(), np.moveaxis(sample["image"], 2, 0) / 255, rtol=1e-6
        )
        for name in dataset.targets:
            np.testing.assert_array_equal(batch[name][row].numpy(), sample[name])


def test_flipped_views_are_copied(tiny_folder):
    dataset = open_folder(tiny_folder, "train", size=(6, 8), targets=["depth"])
    sample = {name: array[..., ::-1] for name, array in dataset.sample(0).items()}
    batch = collate([sample], dataset.targets)
    np.testing.assert_array_equal(batch["depth"][0].numpy(), sample["depth"])
