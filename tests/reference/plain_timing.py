"""The obvious timed loop, as onnxruntime's own `onnxruntime_perf_test` has it, in this process.

Inputs are made before, and outputs stay onnxruntime's own tensors: making NumPy arrays of them takes longer than a
small difference between two networks.
"""

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
    inputs = {"images": onnxruntime.OrtValue.ortvalue_from_numpy(images)}
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        session.run_with_ort_values(None, inputs)
        times.append((time.perf_counter() - started) * 1e3)
    return median(times[runs // 5 :])
