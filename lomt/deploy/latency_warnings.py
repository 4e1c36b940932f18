"""What a reader must know before trusting a latency measurement."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import onnx

from lomt.deploy.latency_report import ArmLatency
from lomt.deploy.latency_statistics import SpeedUp
from lomt.deploy.onnx_graph import count_subnormals
from lomt.deploy.providers import runs_on_gpu

__all__ = ["arm_warnings", "machine_warnings", "round_warnings", "subnormal_warnings"]

_FEW_RUNS: Final = 100
_FEW_ROUNDS: Final = 5
_MOST_COV: Final = 0.05
_MOST_COV_ON_GPU: Final = 0.025
_MOST_CLOCK_CHANGE: Final = 0.05
_MOST_OTHER_LOAD: Final = 0.25
_ENQUEUE_SHARE: Final = 0.8


def machine_warnings(
    environment: Mapping[str, Any], settings: Mapping[str, Any], noise_floor: SpeedUp
) -> list[str]:
    """Warn of a busy machine, of a baseline unlike itself, of few rounds, and of more threads than cores."""
    found = []
    load, cores = environment["load_average"], environment["cpu"]["usable_cores"]
    if load is not None and cores is not None and load > cores / 2:
        found.append(f"the machine was busy: load average {load:.1f} on {cores} cores before the first round")
    if noise_floor.is_distinguishable:
        found.append(f"the baseline differs from itself, {noise_floor}: no ratio this close to 1 is shown")
    if settings["rounds"] < _FEW_ROUNDS:
        found.append(f"intervals from {settings['rounds']} rounds, fewer than {_FEW_ROUNDS}, are too narrow")
    if settings["threads"] > (cores or settings["threads"]):
        found.append(f"{settings['threads']} threads share {cores} cores")
    return found


def round_warnings(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Warn of other processes that worked during the rounds, and of a clock that moved.

    Args:
        rounds: ``other_load`` and ``clock_mhz`` of each, as the worker gives them.
    """
    found = []
    busiest = max(own["other_load"] for own in rounds)
    count = sum(own["other_load"] > _MOST_OTHER_LOAD for own in rounds)
    if count:
        found.append(
            f"other processes kept up to {busiest:.1f} cores busy in {count} of {len(rounds)} rounds: times are too "
            "long and vary"
        )
    clocks = [clock for own in rounds for clock in own["clock_mhz"] if clock]
    if clocks and max(clocks) > (1 + _MOST_CLOCK_CHANGE) * min(clocks):
        found.append(
            f"the processor's clock moved between {min(clocks):.0f} and {max(clocks):.0f} MHz: fix it, or trust the "
            "ratios only"
        )
    return found


def arm_warnings(
    arms: Mapping[str, ArmLatency], restless: Sequence[int], settings: Mapping[str, Any]
) -> list[str]:
    """Warn of arms' spread, of few runs, of rounds in which warming up did not settle them, of a GPU that waits.

    Args:
        arms: By name.
        restless: Number of rounds in which each arm was not settled.
        settings: Of the measurement.
    """
    is_on_gpu = runs_on_gpu(settings["provider"], settings["device"])
    bound = _MOST_COV_ON_GPU if is_on_gpu else _MOST_COV
    spreads = {name: arm.statistics.cov for name, arm in arms.items() if arm.statistics.cov > bound}
    counts = {name: arm.statistics.count for name, arm in arms.items() if arm.statistics.count < _FEW_RUNS}
    rounds = {name: count for name, count in zip(arms, restless, strict=True) if count}
    found = []
    if spreads:
        found.append(f"times vary (CoV) by more than {bound:.1%}: {_listed(spreads, '{:.0%}')}")
    if counts:
        found.append(f"fewer than {_FEW_RUNS} runs: {_listed(counts, '{}')}")
    if rounds:
        found.append(
            f"not stable after warming up: {_listed(rounds, '{} of ' + str(settings['rounds']) + ' rounds')}"
        )
    for name, arm in arms.items():
        if arm.device_ms is not None and arm.device_ms < _ENQUEUE_SHARE * arm.median_ms:
            found.append(
                f"`{name}` is bound by its launches: the GPU works {arm.device_ms:.3f} of {arm.median_ms:.3f} ms"
            )
    return found


def _listed(values: Mapping[str, float], form: str) -> str:
    return ", ".join(f"`{name}` {form.format(value)}" for name, value in values.items())


def subnormal_warnings(networks: Mapping[str, onnx.ModelProto]) -> list[str]:
    """Warn of weights that can slow one arm and so fake a speed-up of another."""
    counts = {name: count_subnormals(network) for name, network in networks.items()}
    return [
        f"`{name}` holds {count} subnormal weights, which slow some CPUs: its times may mislead"
        for name, count in counts.items()
        if count
    ]
