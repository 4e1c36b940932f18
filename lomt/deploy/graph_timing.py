"""Times of ONNX files, quickly and in this process: for choosing, where a report would measure at length.

:func:`lomt.deploy.measure_latency` proves a speed-up with fresh processes and confidence intervals, which takes
many seconds a network. Here many small networks, or two large ones, take turns, and their medians compare.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from lomt.deploy.latency import LatencyError
from lomt.deploy.latency_worker import block_order
from lomt.deploy.layer_graphs import FEATURES, graph_input_shape, write_layer_graph
from lomt.deploy.layer_shapes import LayerShape
from lomt.deploy.session import open_session
from lomt.errors import ArtifactError

__all__ = ["Feed", "LayerTimer", "time_files", "time_layers"]

Feed = Mapping[str, np.ndarray]
"""Inputs of a network by name."""

LayerTimer = Callable[[Sequence[LayerShape], int, float], Sequence[float]]
"""Map from layers, a number of threads and a number of seconds to the layers' times in milliseconds."""

_RUNS_A_TURN = 3
_MOST_ROUNDS = 30
_AT_ONCE = 18
_COPIES = 3
_LEAST_SHARE = 0.05


def time_layers(shapes: Sequence[LayerShape], threads: int = 1, seconds: float = 10.0) -> tuple[float, ...]:
    """Time single layers in onnxruntime, as they are within a network.

    A layer's time is half the difference between a network with three copies of it and one with a single copy
    (:func:`lomt.deploy.layer_graphs.write_layer_graph`), which take turns. It is at least a twentieth of what the
    smaller network takes, should the times scatter more than that.

    Args:
        shapes: The layers; neighbours in this order take turns with each other.
        threads: Intra-op threads.
        seconds: Time for everything, about; each network is run five times even if that takes longer.

    Returns:
        Milliseconds of one run of each layer, from medians.
    """
    times: list[float] = []
    for start in range(0, len(shapes), _AT_ONCE):
        part = shapes[start : start + _AT_ONCE]
        times += _time_part(part, threads, seconds * len(part) / len(shapes))
    return tuple(times)


def _time_part(shapes: Sequence[LayerShape], threads: int, seconds: float) -> list[float]:
    deadline = time.perf_counter() + seconds
    generator = np.random.default_rng(0)
    runs = []
    with TemporaryDirectory(prefix="lomt-layers-") as folder:
        path = Path(folder, "layer.onnx")
        for shape in shapes:
            feed = {FEATURES: generator.standard_normal(graph_input_shape(shape), dtype=np.float32)}
            for copies in (1, _COPIES):
                runs.append(_runner(write_layer_graph(shape, path, copies=copies), feed, threads))
    medians = _take_turns(runs, deadline)
    pairs = zip(medians[::2], medians[1::2], strict=True)
    return [max((many - one) / (_COPIES - 1), _LEAST_SHARE * one) for one, many in pairs]


def time_files(
    paths: Sequence[Path], feed: Feed, *, threads: int = 1, seconds: float = 3.0
) -> tuple[float, ...]:
    """Time ONNX files that take the same inputs, taking turns.

    Args:
        paths: The files.
        feed: The inputs by name; a file takes those that it has.
        threads: Intra-op threads.
        seconds: Time for everything, about; each file is run five times even if that takes longer.

    Returns:
        Median milliseconds of one run of each file.

    Raises:
        LatencyError: onnxruntime cannot open or run a file.
    """
    deadline = time.perf_counter() + seconds
    return tuple(_take_turns([_runner(path, feed, threads) for path in paths], deadline))


def _runner(path: Path, feed: Feed, threads: int) -> Callable[[], float]:
    """Open a file; the function runs it once and returns milliseconds."""
    try:
        session = open_session(path, threads=threads)
        binding = session.io_binding()
        for own in session.get_inputs():
            binding.bind_cpu_input(own.name, feed[own.name])
        for output in session.get_outputs():
            binding.bind_output(output.name)
        session.run_with_iobinding(binding)
    except ArtifactError as error:
        raise _cannot_run(path, error) from error
    except Exception as error:  # onnxruntime has no common error class
        raise _cannot_run(path, error) from error

    def run() -> float:
        started = time.perf_counter_ns()
        session.run_with_iobinding(binding)
        return (time.perf_counter_ns() - started) / 1e6

    return run


def _cannot_run(path: Path, error: Exception) -> LatencyError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return LatencyError(
        f"Expected onnxruntime to run `{path.name}`, but got: {lines[0]} Only networks that it runs can be timed; "
        "use a budget of MACs, parameters or channels."
    )


def _take_turns(runs: Sequence[Callable[[], float]], deadline: float) -> list[float]:
    """Return the median time of each; every turn begins with a run that is not counted."""
    times: list[list[float]] = [[] for _ in runs]
    for order in block_order(len(runs), _MOST_ROUNDS, seed=0, round_number=0):
        for index in order:
            runs[index]()
            times[index] += [runs[index]() for _ in range(_RUNS_A_TURN)]
        if time.perf_counter() > deadline:
            break
    return [median(own) for own in times]
