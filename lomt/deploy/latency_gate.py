"""What every network must show before it is timed: outputs of the right names and shapes, and finite numbers."""

from collections.abc import Mapping
from typing import Any

from lomt.deploy.latency_process import LatencyError

__all__ = ["check_outputs"]


def check_outputs(
    found: Mapping[str, Mapping[str, Any]], baseline: str, *, may_differ: bool = False
) -> list[str]:
    """Compare what each network puts out with what the baseline does.

    A network may leave outputs of the baseline out, as the file of a single task does; that is told.

    Args:
        found: By arm, then by output: ``shape``, ``dtype`` and ``is_finite``.
        baseline: Name of the arm that the others are compared with.
        may_differ: Whether networks with other outputs than the baseline's may be compared.

    Returns:
        A sentence on the arms that leave something out, if there are any.

    Raises:
        LatencyError: An output is not finite, is unknown to the baseline, or has another shape.
    """
    expected, partial = found[baseline], []
    for name, outputs in found.items():
        for output, facts in outputs.items():
            if not facts["is_finite"]:
                raise LatencyError(
                    f"Expected output `{output}` of `{name}` to be finite on random images, but it holds numbers that "
                    "are not. Such a network is not timed; export it again."
                )
        if not may_differ:
            _check_names(name, outputs, baseline, expected)
        if any(output not in outputs for output in expected):
            partial.append(f"`{name}` computes {', '.join(outputs)} alone")
    if not partial:
        return []
    return [f"{'; '.join(partial)}: speed-ups over `{baseline}` are not those of the same work"]


def _check_names(
    name: str, outputs: Mapping[str, Any], baseline: str, expected: Mapping[str, Mapping[str, Any]]
) -> None:
    unknown = [output for output in outputs if output not in expected]
    if unknown:
        raise LatencyError(
            f"Expected the outputs of `{name}` to be among those of `{baseline}`, {', '.join(expected)}, but got "
            f"{', '.join(unknown)}. Export it with the same names, or allow other outputs (`--any-outputs`)."
        )
    for output, facts in outputs.items():
        if facts["shape"] != expected[output]["shape"]:
            raise LatencyError(
                f"Expected output `{output}` of `{name}` to have the shape {expected[output]['shape']} as in "
                f"`{baseline}`, but got {facts['shape']}. Only equal work is compared; `--any-outputs` allows it."
            )
