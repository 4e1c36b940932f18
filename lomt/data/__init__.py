"""Where samples come from: folders, published datasets, generated rooms, plain images; and how they become batches."""

from lomt.data.archive import find_escapes, is_archive
from lomt.data.augment import Augmentation
from lomt.data.cache import CachedDataset
from lomt.data.check import DatasetCheck, SplitCheck, check_dataset
from lomt.data.collate import collate
from lomt.data.contact_sheet import contact_sheet, save_sheet
from lomt.data.folder import FolderDataset, open_folder
from lomt.data.image_folder import IMAGES, ImageFolder, open_images
from lomt.data.items import Answer, ItemsDataset, adapt
from lomt.data.loader import BatchLoader
from lomt.data.memory_map import MappedDataset, open_map, write_map
from lomt.data.opening import open_cached, open_dataset, splits_of, targets_of
from lomt.data.published import LAYOUTS, Collection, PublishedDataset, identify, open_published
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
from lomt.data.subset import Subset
from lomt.data.taught import TaughtDataset, teach
from lomt.data.verify import Damage, find_damage, require_whole, without_damage

__all__ = [
    "DENSE_KINDS",
    "IMAGE",
    "IMAGES",
    "LAYOUTS",
    "TARGET_KINDS",
    "Answer",
    "Augmentation",
    "BatchLoader",
    "CachedDataset",
    "Collection",
    "Damage",
    "Dataset",
    "DatasetCheck",
    "FolderDataset",
    "ImageFolder",
    "ItemsDataset",
    "MappedDataset",
    "PublishedDataset",
    "RoomsDataset",
    "Sample",
    "Split",
    "SplitCheck",
    "Subset",
    "TargetKind",
    "TargetSpec",
    "TaughtDataset",
    "adapt",
    "check_dataset",
    "collate",
    "contact_sheet",
    "find_damage",
    "find_escapes",
    "identify",
    "is_archive",
    "open_cached",
    "open_dataset",
    "open_folder",
    "open_images",
    "open_map",
    "open_published",
    "require_whole",
    "save_sheet",
    "splits_of",
    "targets_of",
    "teach",
    "without_damage",
    "write_map",
]
