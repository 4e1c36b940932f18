import numpy as np
import pytest

from lomt.deploy.nonnegative import nonnegative_least_squares

optimize = pytest.importorskip("scipy.optimize")


@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_minimum_that_another_implementation_finds(seed):
    generator = np.random.default_rng(seed)
    features, target = generator.standard_normal((12, 4)), generator.standard_normal(12)
    expected, _ = optimize.nnls(features, target)
    np.testing.assert_allclose(nonnegative_least_squares(features, target), expected, atol=1e-10)


def test_positive_coefficients_are_recovered():
    features = np.random.default_rng(0).random((20, 4))
    found = nonnegative_least_squares(features, features @ np.array([0.5, 0.0, 2.0, 1.0]))
    np.testing.assert_allclose(found, [0.5, 0.0, 2.0, 1.0], atol=1e-9)


def test_where_nothing_helps_all_are_zero():
    assert nonnegative_least_squares(np.ones((3, 2)), -np.ones(3)).tolist() == [0.0, 0.0]
