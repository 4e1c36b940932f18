"""The errors that lomt raises on purpose; each also is a builtin kind."""

import difflib
from collections.abc import Iterable, Sequence

__all__ = [
    "ArtifactError",
    "DataError",
    "ExportMismatchError",
    "LomtError",
    "RecipeError",
    "ScoreError",
    "SparsityTargetError",
    "TrainingError",
    "UnknownNameError",
    "UnsupportedLayerError",
]


class LomtError(Exception):
    """What a user can mend: the message names the thing and the way out, no traceback is needed."""


class UnknownNameError(LomtError, ValueError):
    """A name that is not among the known ones.

    Args:
        kind: What the name should be the name of, for example ``"task"``.
        name: The name given.
        known: The names that would have been right.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        super().__init__(f"Unknown {kind} `{name}`{_nearest(name, known)} Known are {_listing(known)}.")


class RecipeError(LomtError, ValueError):
    """A recipe with mistakes; all of them are in ``problems``.

    Args:
        source: Path or name of the recipe.
        problems: One sentence each, beginning with the YAML key.
    """

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = f"{len(problems)} problem" + ("s" if len(problems) != 1 else "")
        super().__init__("\n".join([f"Recipe {source} has {count}:", *(f"  {p}" for p in problems)]))


class DataError(LomtError, ValueError):
    """A dataset that is not as its description says; file, column and row are named."""


class ArtifactError(LomtError, RuntimeError):
    """A run directory or saved model that is missing, damaged or belongs to something else."""


class ScoreError(LomtError, ValueError):
    """Weights, losses or gradients from which nothing can be scored."""


class SparsityTargetError(LomtError, ValueError):
    """A sparsity that is none, that cannot be reached, or a model in which nothing can be sparse."""


class TrainingError(LomtError, RuntimeError):
    """Training cannot go on, for example because a loss is not finite."""


class UnsupportedLayerError(LomtError, TypeError):
    """A layer of a kind for which there is no rule."""


class ExportMismatchError(LomtError, RuntimeError):
    """An exported network does not compute what the original does."""


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f", did you mean `{close[0]}`?" if close else "."


def _listing(known: Sequence[str], most: int = 20) -> str:
    shown = ", ".join(known[:most]) or "none"
    return shown if len(known) <= most else f"{shown} and {len(known) - most} more"
