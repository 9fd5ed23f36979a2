from __future__ import annotations

import numpy as np
import pytest
from worked_sets import A, B, C

from labkit.errors import InputError
from labkit.scoring.ideal_point import (
    ideal_point_positive_distance,
    linear_amplified_ippd,
    linear_amplified_ippd_k1,
    positive_distance,
)


def test_distance_passes_one_before_it_is_limited() -> None:
    # Four deviations of 2/3.
    assert positive_distance(C)[0] == pytest.approx(4 / 3)
    assert ideal_point_positive_distance(C)[0] == 1.0


def test_amplified_once_is_the_distance() -> None:
    np.testing.assert_array_equal(linear_amplified_ippd_k1(B), ideal_point_positive_distance(B))


def test_sensitivity_is_a_factor() -> None:
    # n3 of set A is 0.1 above the mean.
    assert linear_amplified_ippd(A, sensitivity=4.0)[2] == pytest.approx(0.4)


@pytest.mark.parametrize("sensitivity", [0.0, -1.0, np.nan])
def test_sensitivity_must_be_positive(sensitivity: float) -> None:
    with pytest.raises(InputError, match="wanted a sensitivity above 0"):
        linear_amplified_ippd(A, sensitivity=sensitivity)
