"""Edges where a dataset has none: the boundaries between labelled regions."""

import numpy as np
from jaxtyping import Int8, Shaped

__all__ = ["label_edges"]


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
    for one, other in (
        ((slice(1, None),), (slice(None, -1),)),
        ((..., slice(1, None)), (..., slice(None, -1))),
    ):
        differs = (labels[one] != labels[other]) & known[one] & known[other]
        edges[one][differs] = 1
        edges[other][differs] = 1
    edges[~known] = -1
    return edges
