"""The obvious timed loop: one network after the other, in this process."""

import time
from statistics import median

import numpy as np
import onnxruntime


def time_plainly(path, shape, runs=50):
    """Median milliseconds of a run on the CPU with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        session.run(None, {"images": images})
        times.append((time.perf_counter() - started) * 1e3)
    return median(times[runs // 5 :])
