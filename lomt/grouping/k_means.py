"""Centres in the midst of rows."""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

__all__ = ["k_means"]


def k_means(
    rows: Float64[Tensor, "rows columns"], count: int, seed: int, restarts: int = 10
) -> tuple[Int64[Tensor, " rows"], Float64[Tensor, "centres columns"]]:
    r"""Return the labels and centres with the smallest sum of squared distances that several starts find.

    Args:
        rows: What is clustered.
        count: Of the centres, from 1 to the number of rows.
        seed: Of the starts, by k-means++.
        restarts: How many starts.

    References:
        Arthur and Vassilvitskii, "k-means++: The Advantages of Careful Seeding", 2007,
        https://dl.acm.org/doi/10.5555/1283383.1283494.
    """
    generator = torch.Generator().manual_seed(seed)
    best: tuple[Tensor, Tensor] | None = None
    best_cost = float("inf")
    for _ in range(restarts):
        labels, centres = _from(rows, _far_apart(rows, count, generator))
        cost = float((rows - centres[labels]).square().sum())
        if best is None or cost < best_cost:
            best, best_cost = (labels, centres), cost
    assert best is not None
    return best


def _from(rows: Tensor, centres: Tensor, rounds: int = 100) -> tuple[Tensor, Tensor]:
    labels = _nearest(rows, centres)
    for _ in range(rounds):
        moved = torch.stack(
            [
                rows[labels == k].mean(0) if bool((labels == k).any()) else centre
                for k, centre in enumerate(centres)
            ]
        )
        if torch.equal(moved, centres):
            break
        centres, labels = moved, _nearest(rows, moved)
    return labels, centres


def _nearest(rows: Tensor, centres: Tensor) -> Tensor:
    nearest: Tensor = _distances(rows, centres).argmin(1)
    return nearest


def _distances(rows: Tensor, centres: Tensor) -> Tensor:
    # Not by matrix products: equal rows must be at distance 0.
    return torch.cdist(rows, centres, compute_mode="donot_use_mm_for_euclid_dist")


def _far_apart(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Choose starting centres, each likelier the farther it is from those before."""
    chosen = [int(torch.randint(len(rows), (1,), generator=generator))]
    while len(chosen) < count:
        distances = _distances(rows, rows[chosen]).amin(1).square()
        weights = distances if float(distances.sum()) > 0 else torch.ones_like(distances)
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
    return rows[chosen]
