"""Size and checksum of what was timed."""

import hashlib
from pathlib import Path

import onnx
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

__all__ = ["describe_source"]


def describe_source(source: Path | str) -> tuple[int | None, str | None]:
    """Return bytes and SHA-256 of an ONNX file with the weights beside it, or of a directory's safetensors files.

    Returns:
        Two ``None`` for a factory.
    """
    path = Path(source)
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
    elif path.suffix == ".onnx":
        files = [path, *_beside(path)]
    else:
        return None, None
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return sum(file.stat().st_size for file in files), digest.hexdigest()


def _beside(path: Path) -> list[Path]:
    network = onnx.load(path, load_external_data=False)
    stored = [tensor for tensor in network.graph.initializer if uses_external_data(tensor)]
    return sorted({path.parent / ExternalDataInfo(tensor).location for tensor in stored})
