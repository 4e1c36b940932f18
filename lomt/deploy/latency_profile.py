"""Where the time of a network goes: layer by layer, as the software that runs it says itself."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from lomt.deploy.fixed_shape import common_shape
from lomt.deploy.latency_process import ask_worker
from lomt.deploy.onnx_graph import load_network
from lomt.deploy.providers import check_provider
from lomt.deploy.session import ProviderError

__all__ = ["PROFILED", "LayerTime", "LayerTimes", "check_profile", "profile_layers"]

PROFILED: Final = ("cpu", "openvino")
"""Providers that say what each layer took; on a GPU they would only say what launching it took."""


@dataclass(frozen=True)
class LayerTime:
    """One layer as it is executed, after the software has merged what it can.

    Attributes:
        name: Of the node; merged ones have the name that the software gives them.
        kind: Operator.
        ms: Median time of a run.
        share: Of all layers' time.
    """

    name: str
    kind: str
    ms: float
    share: float


@dataclass(frozen=True)
class LayerTimes:
    """The layers of one network, slowest first; see :func:`profile_layers`."""

    layers: tuple[LayerTime, ...]

    @property
    def total_ms(self) -> float:
        """Sum over the layers; observing them makes a run a little slower than it is."""
        return sum(layer.ms for layer in self.layers)

    def by_kind(self) -> dict[str, tuple[int, float, float]]:
        """Return count, milliseconds and share by operator, slowest first."""
        found: dict[str, tuple[int, float, float]] = {}
        for layer in self.layers:
            count, ms, share = found.get(layer.kind, (0, 0.0, 0.0))
            found[layer.kind] = (count + 1, ms + layer.ms, share + layer.share)
        return dict(sorted(found.items(), key=lambda item: -item[1][1]))

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        kinds = self.by_kind().items()
        return {
            "total_ms": self.total_ms,
            "layers": [asdict(layer) for layer in self.layers],
            "kinds": {kind: {"count": own[0], "ms": own[1], "share": own[2]} for kind, own in kinds},
        }


def check_profile(provider: str) -> None:
    """Make sure that a provider tells the layers' times.

    Raises:
        ProviderError: It does not.
    """
    if provider not in PROFILED:
        raise ProviderError(
            f"Expected the provider of a profile to be {' or '.join(PROFILED)}, but got {provider}, which does not "
            "tell the layers' own times. Profile with one of these, or leave `--profile` out."
        )


def profile_layers(
    path: Path,
    *,
    provider: str = "cpu",
    threads: int = 1,
    batch: int = 1,
    input_shape: tuple[int, int, int] | None = None,
    runs: int = 30,
    seed: int = 0,
) -> LayerTimes:
    """Time the layers of an ONNX file in a fresh process.

    Args:
        path: The ONNX file.
        provider: ``"cpu"`` or ``"openvino"``.
        threads: Threads within an operator.
        batch: Images a run.
        input_shape: Channels, height and width; by default, and where 0, what the file says.
        runs: Recorded runs, after a third as many that warm up.
        seed: Of the images.

    Raises:
        ProviderError: The provider is not installed or does not tell the layers' times.
        ArtifactError: The file is missing or is no ONNX network.
        ValueError: ``input_shape`` is missing or does not fit.
        LatencyError: The process that times failed.
    """
    check_profile(provider)
    check_provider(provider)
    shape = common_shape({path.name: load_network(path)}, path.name, input_shape)
    answer = ask_worker(
        {
            "kind": "profile",
            "path": str(path.resolve()),
            "runs": runs,
            "settings": {
                "provider": provider,
                "device": "cpu",
                "threads": threads,
                "spinning": True,
                "shape": [batch, *shape],
                "pool": 1,
                "seed": seed,
            },
        },
        f"the profile of `{path}`",
    )
    return _layer_times(answer["layers"])


def _layer_times(found: Sequence[dict[str, Any]]) -> LayerTimes:
    total = sum(own["ms"] for own in found) or 1.0
    layers = (LayerTime(own["name"], own["kind"], own["ms"], own["ms"] / total) for own in found)
    return LayerTimes(tuple(sorted(layers, key=lambda layer: -layer.ms)))
