"""The recipes that come with lomt: where they lie and what they are for."""

import sys
import sysconfig
from pathlib import Path

__all__ = ["shipped_paths", "shipped_recipes"]


def shipped_recipes() -> list[tuple[str, str]]:
    """List the shipped recipes.

    Returns:
        Name and purpose of each, by name; the purpose is the first comment line of the file.
    """
    return [(name, _purpose(path)) for name, path in shipped_paths().items()]


def shipped_paths() -> dict[str, Path]:
    """Return the file of every shipped recipe by its name; empty when none are installed."""
    for folder in _folders():
        paths = sorted(folder.glob("*.yaml"))
        if paths:
            return {path.stem: path for path in paths}
    return {}


def _folders() -> list[Path]:
    """Return where recipes may lie, a source checkout before installed copies."""
    root = Path(__file__).resolve().parents[2]
    checkout = [root / "recipes"] if (root / "setup.cfg").is_file() else []
    schemes = [sysconfig.get_path("data"), sysconfig.get_path("data", sysconfig.get_preferred_scheme("user"))]
    shares = [Path(place) for place in [*schemes, sys.prefix, sys.base_prefix] if place]
    # `pip install --target DIR` puts share/ beside the package
    return [*checkout, *(place / "share" / "lomt" / "recipes" for place in [*shares, root])]


def _purpose(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""
