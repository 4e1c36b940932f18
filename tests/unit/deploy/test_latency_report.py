import json
import re

from lomt.deploy import ArmLatency, LatencyReport, SpeedUp
from lomt.deploy.latency_statistics import summarise


def arm(times, macs=2_000_000):
    return ArmLatency(
        path="model.onnx",
        file_bytes=1_500_000,
        sha256="00",
        statistics=summarise([time for single in times for time in single]),
        round_medians_ms=tuple(sorted(single)[1] for single in times),
        load_ms=1.0,
        build_ms=None,
        first_run_ms=2.0,
        throughput=100.0,
        outputs={"depth": (1, 1, 96, 128)},
        peak_memory_bytes=3_000_000,
        device_memory_bytes=None,
        macs=macs,
        efficiency=None if macs is None else 0.25,
        device_ms=None,
        providers=("CPUExecutionProvider",),
        times_ms=times,
    )


REPORT = LatencyReport(
    arms={
        "dense": arm(((8.0, 9.0, 10.0), (7.0, 8.0, 9.0))),
        "truncated": arm(((8.0, 9.0, 9.0), (7.0, 8.0, 8.0))),
        "lomt": arm(((2.0, 2.0, 2.0), (2.0, 2.0, 2.0))),
    },
    baseline="dense",
    speed_ups={"truncated": SpeedUp(1.05, 0.97, 1.1), "lomt": SpeedUp(4.25, 4.0, 4.5)},
    noise_floor=SpeedUp(1.001, 0.99, 1.01),
    gemm_macs_per_s=4e10,
    settings={
        "provider": "cpu",
        "device": "cpu",
        "threads": 2,
        "batch": 1,
        "input_shape": [3, 96, 128],
        "rounds": 2,
    },
    environment={"cpu": {"model": "some"}},
    warnings=("the machine was busy",),
)


def test_it_prints_a_table_in_which_noise_is_no_speed_up():
    lines = str(REPORT).splitlines()
    assert lines[0] == "Latency with provider cpu, 2 threads, batch 1, 3x96x128, 2 rounds"
    assert [" | ".join(re.split(r"  +", line)) for line in lines[1:5]] == [
        "network | median ms | p90 | p95 | p99 | CoV | speed-up over dense (95 % interval) | load ms | first ms | "
        "memory MB | file MB | M MACs | of GEMM",
        "dense | 8.500 | 9.500 | 9.750 | 9.950 | 12% | baseline | 1 | 2.0 | 3 | 1.50 | 2.0 | 25%",
        "truncated | 8.500 | 9.000 | 9.000 | 9.000 | 9% | not distinguishable [0.970, 1.100] | 1 | 2.0 | 3 | 1.50 | "
        "2.0 | 25%",
        "lomt | 2.000 | 2.000 | 2.000 | 2.000 | 0% | 4.25x [4.000, 4.500] | 1 | 2.0 | 3 | 1.50 | 2.0 | 25%",
    ]
    assert lines[5:] == [
        "The baseline against itself: 1.001 [0.990, 1.010]",
        "Peak of this machine: 40.0 G MACs/s, the product of two matrices",
        "Warning: the machine was busy",
    ]
    assert len({len(line) for line in lines[1:5]}) == 1  # aligned to the last column


def test_it_stores_itself_with_single_runs_only_when_asked():
    values = REPORT.to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["schema"] == 2
    assert values["speed_ups"]["lomt"] == {
        "ratio": 4.25,
        "low": 4.0,
        "high": 4.5,
        "noise": 1.0,
        "is_distinguishable": True,
    }
    assert values["speed_ups"]["truncated"]["is_distinguishable"] is False
    assert values["arms"]["dense"]["round_medians_ms"] == [9.0, 8.0]
    assert "times_ms" not in values["arms"]["dense"]
    assert REPORT.to_dict(include_times=True)["arms"]["lomt"]["times_ms"] == [[2.0] * 3] * 2
