"""Edges where a dataset has none: the boundaries between labelled regions."""

import numpy as np
from jaxtyping import Int8, Shaped

__all__ = ["bridge_seams", "label_edges"]

_DOWN, _ACROSS = (slice(1, None), slice(None)), (slice(None), slice(1, None))
_UP, _BACK = (slice(None, -1), slice(None)), (slice(None), slice(None, -1))
_NEIGHBOURS = ((_DOWN, _UP), (_UP, _DOWN), (_ACROSS, _BACK), (_BACK, _ACROSS))
"""A part of the map, and the part of the same shape that lies one pixel above, below, left and right of it."""


def bridge_seams(
    labels: Shaped[np.ndarray, "height width"], unlabelled: int, width: int
) -> Shaped[np.ndarray, "height width"]:
    """Let regions grow into unlabelled pixels, so that those on either side of a thin seam meet.

    People who label an image by drawing leave seams of some pixels between the regions.

    Args:
        labels: Integers ``(H, W)``; not modified.
        unlabelled: The value of pixels without label.
        width: How many pixels regions grow; seams up to twice as wide are closed. Where several regions reach a
            pixel at once it is the one above, then below, left, right.
    """
    grown = labels
    for _ in range(width):
        before, grown = grown, grown.copy()
        for here, there in _NEIGHBOURS:
            takes = (grown[here] == unlabelled) & (before[there] != unlabelled)
            grown[here][takes] = before[there][takes]
    return grown


def label_edges(
    labels: Shaped[np.ndarray, "height width"], unlabelled: int | None
) -> Int8[np.ndarray, "height width"]:
    """Mark the pixels that touch another region.

    A labelled pixel is an edge where one of its four neighbours has another label: an edge is two pixels
    wide, one on either side. Borders to unlabelled pixels are no edges, and unlabelled pixels have no label
    here either.

    Args:
        labels: Integers ``(H, W)``.
        unlabelled: The value of pixels without label, if there is one.

    Returns:
        int8 ``(H, W)``: 1 for an edge, 0 for none, -1 without label.
    """
    known = np.ones(labels.shape, bool) if unlabelled is None else labels != unlabelled
    edges = np.zeros(labels.shape, np.int8)
    for here, there in _NEIGHBOURS:
        edges[here][(labels[here] != labels[there]) & known[here] & known[there]] = 1
    edges[~known] = -1
    return edges
