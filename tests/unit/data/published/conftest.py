"""Small datasets in every published layout, written once a test."""

import pytest
from reference.published_sets import WRITERS

from lomt.data import find_damage, open_dataset


@pytest.fixture(params=sorted(WRITERS))
def layout(request):
    if request.param == "nyuv2_mat":
        pytest.importorskip("h5py", reason="NYU-v2's file needs h5py")
    return request.param


@pytest.fixture
def written(layout, tmp_path):
    WRITERS[layout](tmp_path)
    return tmp_path


@pytest.fixture
def messages():
    """Return what is wrong with the samples of a split."""

    def found(layout, root, split="train", targets=None):
        return [d.message for d in find_damage(open_dataset(layout, root, split, size=None, targets=targets))]

    return found
