from __future__ import annotations

import numpy as np
import pytest
from worked_sets import A, B

from labkit.model import Snapshot
from labkit.scoring.deviations import (
    linear_weighted_positive_deviation,
    weighted_mean_square_positive_deviation,
    weighted_rms_positive_deviation,
)
from labkit.scoring.mean import deviation, over_largest, positive_deviation, rounded


def test_deviations_of_a_set() -> None:
    np.testing.assert_allclose(deviation(A)[0], [0.4, 0.2, 0.2, -0.1], atol=1e-12)
    np.testing.assert_allclose(positive_deviation(A)[2], [0, 0, 0, 0.1], atol=1e-12)


def test_deviations_sum_to_zero() -> None:
    np.testing.assert_allclose(deviation(B).sum(axis=0), 0.0, atol=1e-12)


@pytest.mark.parametrize(("gap", "counts"), [(1.9e-9, False), (2.1e-9, True)], ids=["noise", "a difference"])
def test_distance_up_to_a_billionth_counts_as_none(gap: float, counts: bool) -> None:
    # Two nodes lie half the gap from their mean.
    snapshot = Snapshot.of(["a", "b"], [(0.5, 0, 0, 0), (0.5 + gap, 0, 0, 0)])
    assert bool(deviation(snapshot).any()) is counts


def test_halves_round_up_as_promql_does() -> None:
    np.testing.assert_allclose(rounded(np.array([0.4e-9, 0.5e-9, 1.4e-9])), [0.0, 1e-9, 1e-9], rtol=1e-12)


def test_over_largest_leaves_zeros() -> None:
    assert over_largest(np.zeros(3)).tolist() == [0.0, 0.0, 0.0]


def test_root_of_the_mean_square() -> None:
    np.testing.assert_allclose(
        weighted_rms_positive_deviation(B) ** 2, weighted_mean_square_positive_deviation(B), atol=1e-15
    )


def test_linear_with_one_weight_is_the_deviation() -> None:
    np.testing.assert_allclose(linear_weighted_positive_deviation(A, weights=(1, 0, 0, 0)), [0.4, 0, 0], atol=1e-12)
