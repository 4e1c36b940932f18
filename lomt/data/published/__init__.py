"""Datasets of the field in the layouts in which they are published."""

from lomt.data.published.collection import Collection, PublishedDataset
from lomt.data.published.layouts import FOLDER, LAYOUTS, identify, open_published

__all__ = ["FOLDER", "LAYOUTS", "Collection", "PublishedDataset", "identify", "open_published"]
