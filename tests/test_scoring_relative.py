from __future__ import annotations

import numpy as np
import pytest
from worked_sets import A

from labkit.errors import InputError
from labkit.model import Snapshot
from labkit.scoring.relative import centroid_distance, critical_dimension, variance_minimization


def test_idle_node_is_as_far_from_the_mean_as_a_full_one() -> None:
    snapshot = Snapshot.of(["full", "idle"], [(1.0,) * 4, (0.0,) * 4])
    assert centroid_distance(snapshot).tolist() == [1.0, 1.0]


def test_first_dimension_wins_a_tie() -> None:
    # Memory use and CPU pressure are equally uneven.
    snapshot = Snapshot.of(["a", "b"], [(0.5, 0.2, 0.6, 0.0), (0.5, 0.4, 0.4, 0.0)])
    assert critical_dimension(snapshot) == 1


def test_tie_within_rounding_is_a_tie() -> None:
    snapshot = Snapshot.of(["a", "b"], [(0.5, 0.2, 0.6 + 4e-10, 0.0), (0.5, 0.4, 0.4, 0.0)])
    assert critical_dimension(snapshot) == 1


def test_scale_of_weights_does_not_matter() -> None:
    np.testing.assert_allclose(
        variance_minimization(A, weights=(1, 2, 1, 2)), variance_minimization(A, weights=(10, 20, 10, 20)), atol=1e-12
    )


def test_infinite_weights_are_refused() -> None:
    with pytest.raises(InputError, match="wanted four finite weights"):
        variance_minimization(A, weights=(1, np.inf, 1, 2))
