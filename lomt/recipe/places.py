"""Where the relative paths of a recipe lead."""

import os
from pathlib import Path

from lomt.errors import ArtifactError, DataError
from lomt.recipe.data_settings import DataSettings
from lomt.recipe.model_settings import BackboneSettings, ModelSettings

__all__ = ["find_data", "find_model_weights", "find_weights"]


def find_data(data: DataSettings) -> Path:
    """Return the dataset folder.

    Args:
        data: Settings of a stored dataset; a relative ``root`` is looked up in ``$LOMT_DATA``, then in the
            working directory.

    Raises:
        DataError: If there is no such folder; the places looked at are named.
    """
    if data.root is None:
        raise DataError("Expected `data.root` to be a dataset folder, but got null.")
    places = _places(data.root, ("LOMT_DATA",))
    for place in places:
        if place.is_dir() or (place.is_file() and data.kind == "nyuv2_mat"):
            return place
    raise DataError(
        f"Expected `data.root` to be a folder, but there is none at {_either(places)}. "
        "Set LOMT_DATA to the folder that holds it, or give --set data.root=PATH."
    )


def find_model_weights(model: ModelSettings) -> Path | None:
    """Return the file with the weights of the user's own model, None where the factory's own are meant.

    Args:
        model: Settings; a relative file is looked up in ``$LOMT_WEIGHTS``, ``$LOMT_DATA``, then in the working
            directory.

    Raises:
        ArtifactError: If there is no such file; the places looked at are named.
    """
    if model.weights is None:
        return None
    return _find_file(model.weights, "model.weights", "take what the factory gives")


def find_weights(backbone: BackboneSettings) -> str | Path | None:
    """Return what `lomt.models.create_backbone` takes as weights: None, ``"pretrained"`` or a file.

    Args:
        backbone: Settings; a relative file is looked up in ``$LOMT_WEIGHTS``, ``$LOMT_DATA``, then in the
            working directory.

    Raises:
        ArtifactError: If there is no such file; the places looked at are named.
    """
    if backbone.weights in (None, "pretrained"):
        return backbone.weights
    return _find_file(backbone.weights, "model.backbone.weights", "start from random weights")


def _find_file(path: str, key: str, otherwise: str) -> Path:
    places = _places(path, ("LOMT_WEIGHTS", "LOMT_DATA"))
    for place in places:
        if place.is_file():
            return place
    raise ArtifactError(
        f"Expected `{key}` to be a file, but there is none at {_either(places)}. "
        f"Set LOMT_WEIGHTS to the folder that holds it, or give --set {key}=null to {otherwise}."
    )


def _places(path: str, variables: tuple[str, ...]) -> list[Path]:
    named = Path(path).expanduser()
    if named.is_absolute():
        return [named]
    folders = [os.environ[name] for name in variables if os.environ.get(name)]
    return [*(Path(folder) / named for folder in folders), named]


def _either(places: list[Path]) -> str:
    return " or ".join(str(place) for place in places)
