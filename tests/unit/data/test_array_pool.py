import pickle

import numpy as np
import torch

from lomt.data.array_pool import ArrayPool


def test_memory_is_handed_out_again_once_nobody_holds_it():
    pool = ArrayPool()
    place = pool.empty((4, 3), np.float32).ctypes.data
    assert pool.empty((4, 3), np.float32).ctypes.data == place


def test_what_shares_the_memory_keeps_it():
    pool = ArrayPool()
    array = pool.empty((4, 3), np.float32)
    place, tensor = array.ctypes.data, torch.from_numpy(array)
    del array
    assert pool.empty((4, 3), np.float32).ctypes.data != place
    view = tensor[1:, :2]
    del tensor
    assert pool.empty((4, 3), np.float32).ctypes.data != place
    numbers = view.numpy()
    del view
    assert pool.empty((4, 3), np.float32).ctypes.data != place
    del numbers
    assert place in {pool.empty((4, 3), np.float32).ctypes.data for _ in range(2)}


def test_shapes_and_types_are_kept_apart():
    pool = ArrayPool()
    first = pool.empty((2, 2), np.float32)
    del first
    assert pool.empty((2, 2), np.int64).dtype == np.int64
    assert pool.empty((4,), np.float32).shape == (4,)


def test_who_keeps_everything_does_not_fill_the_pool():
    pool = ArrayPool()
    kept = [pool.empty((1,), np.float32) for _ in range(40)]
    assert len({array.ctypes.data for array in kept}) == 40
    assert sum(map(len, pool._arrays.values())) <= 16


def test_another_process_gets_none():
    pool = ArrayPool()
    pool.empty((1,), np.float32)
    assert not pickle.loads(pickle.dumps(pool))._arrays
