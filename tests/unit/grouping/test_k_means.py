import pytest
import torch
from sklearn.cluster import KMeans

from lomt.grouping.k_means import k_means


@pytest.mark.parametrize("seed", [0, 1])
def test_cost_is_scikit_learns(seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(30, 4, generator=generator).double() + 4 * (torch.arange(30) % 3)[:, None]
    labels, centres = k_means(rows, 3, seed)
    other = KMeans(3, n_init=10, random_state=seed).fit(rows.numpy())

    assert float((rows - centres[labels]).square().sum()) == pytest.approx(other.inertia_)
    assert torch.equal(labels, torch.cdist(rows, centres).argmin(1))
    for k in range(3):
        assert torch.allclose(centres[k], rows[labels == k].mean(0))


def test_equal_rows_and_as_many_centres_as_rows():
    rows = torch.tensor([[1.0], [1.0], [3.0]], dtype=torch.float64)

    assert k_means(rows, 1, 0)[1].tolist() == [[pytest.approx(5 / 3)]]
    assert sorted(k_means(rows, 3, 0)[1].flatten().tolist()) == [1, 1, 3]
