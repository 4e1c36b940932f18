"""Where samples come from: folders, generated rooms; and how they become batches."""

from lomt.data.augment import Augmentation
from lomt.data.cache import CachedDataset
from lomt.data.collate import collate
from lomt.data.folder import FolderDataset, open_folder
from lomt.data.loader import BatchLoader
from lomt.data.rooms import RoomsDataset
from lomt.data.sample import (
    DENSE_KINDS,
    IMAGE,
    TARGET_KINDS,
    Dataset,
    Sample,
    Split,
    TargetKind,
    TargetSpec,
)

__all__ = [
    "DENSE_KINDS",
    "IMAGE",
    "TARGET_KINDS",
    "Augmentation",
    "BatchLoader",
    "CachedDataset",
    "Dataset",
    "FolderDataset",
    "RoomsDataset",
    "Sample",
    "Split",
    "TargetKind",
    "TargetSpec",
    "collate",
    "open_folder",
]
