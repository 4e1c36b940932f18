"""The file that `lomt bench --json` writes: its keys and types, and the check that a file is one."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from lomt.atomic_file import write_text_atomically
from lomt.deploy.latency_report import SCHEMA
from lomt.errors import ArtifactError

__all__ = ["LatencyFile", "read_latency", "write_latency"]

Times = list[list[PositiveFloat]]


class _Block(BaseModel):
    """A block without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StatisticsBlock(_Block):
    """See :class:`lomt.deploy.LatencyStatistics`."""

    count: PositiveInt
    mean_ms: PositiveFloat
    min_ms: PositiveFloat
    p50_ms: PositiveFloat
    p90_ms: PositiveFloat
    p90_upper_ms: PositiveFloat
    p95_ms: PositiveFloat
    p99_ms: PositiveFloat
    p999_ms: PositiveFloat | None
    std_ms: NonNegativeFloat
    cov: NonNegativeFloat


class ArmBlock(_Block):
    """See :class:`lomt.deploy.ArmLatency`."""

    path: str
    file_bytes: PositiveInt | None
    sha256: str | None
    statistics: StatisticsBlock
    median_ms: PositiveFloat
    round_medians_ms: list[PositiveFloat]
    load_ms: NonNegativeFloat
    build_ms: NonNegativeFloat | None
    first_run_ms: PositiveFloat
    throughput: PositiveFloat = Field(description="Images a second.")
    outputs: dict[str, list[int]] = Field(description="Shapes by name.")
    peak_memory_bytes: int = Field(ge=0, description="Of a process, above what it held before.")
    device_memory_bytes: int | None
    macs: int | None
    efficiency: NonNegativeFloat | None = Field(description="Share of gemm_macs_per_s.")
    device_ms: PositiveFloat | None
    providers: list[str]
    times_ms: Times | None = Field(default=None, description="Every recorded run, by round.")
    device_times_ms: Times | None = None


class SpeedUpBlock(_Block):
    """See :class:`lomt.deploy.SpeedUp`."""

    ratio: PositiveFloat
    low: PositiveFloat
    high: PositiveFloat
    noise: float = Field(ge=1)
    is_distinguishable: bool


class LayerBlock(_Block):
    """One layer of a profile."""

    name: str
    kind: str
    ms: NonNegativeFloat
    share: NonNegativeFloat


class KindBlock(_Block):
    """All layers of one operator."""

    count: PositiveInt
    ms: NonNegativeFloat
    share: NonNegativeFloat


class ProfileBlock(_Block):
    """See :class:`lomt.deploy.LayerTimes`."""

    total_ms: NonNegativeFloat
    layers: list[LayerBlock]
    kinds: dict[str, KindBlock]


class LatencyFile(_Block):
    """One measurement; see :class:`lomt.deploy.LatencyReport`."""

    version: Literal[2] = Field(alias="schema", description="Version of this schema.")
    baseline: str
    arms: dict[str, ArmBlock]
    speed_ups: dict[str, SpeedUpBlock]
    noise_floor: SpeedUpBlock
    gemm_macs_per_s: PositiveFloat | None
    settings: dict[str, Any]
    environment: dict[str, Any]
    warnings: list[str]
    profile: dict[str, ProfileBlock] | None = Field(default=None, description="By arm, when asked for.")


def write_latency(content: dict[str, Any], path: Path) -> None:
    """Write a measurement, whole or not at all, after checking it against the schema."""
    LatencyFile.model_validate(content)
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_text_atomically(path, text)


def read_latency(path: Path) -> LatencyFile:
    """Read a measurement back.

    Raises:
        ArtifactError: The file is missing, no JSON, or not as the schema says.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return LatencyFile.model_validate(content)
    except FileNotFoundError as error:
        raise ArtifactError(f"Expected {path} to be a measurement, but there is no such file.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"Expected {path} to hold JSON, but it does not ({error}).") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise ArtifactError(
            f"Expected {path} to be a measurement of schema {SCHEMA}, but {place}: {first['msg']}. Measure again."
        ) from error
