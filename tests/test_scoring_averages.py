from __future__ import annotations

import numpy as np
import pytest
from worked_sets import A

from labkit.errors import InputError
from labkit.scoring.averages import cpu_focused, pressure_focused, weighted_average


def test_weights_choose_a_dimension() -> None:
    np.testing.assert_allclose(weighted_average(A, weights=(0, 0, 1, 0)), [0.6, 0.4, 0.2])


@pytest.mark.parametrize(
    "weights", [(0.5, 0.5), (0.5, 0.5, 0.5, 0.5), (1.5, -0.5, 0, 0), (np.nan, 1, 0, 0)],
    ids=["two", "sum 2", "negative", "NaN"],
)  # fmt: skip
def test_weights_that_are_none_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="wanted four weights"):
        weighted_average(A, weights=weights)


def test_cpu_focus_ignores_memory() -> None:
    # n1: .7 * .9 + .3 * .3
    assert cpu_focused(A)[0] == pytest.approx(0.72)


def test_pressure_multiplier_of_one_weighs_use_and_pressure_alike() -> None:
    # n1: (.15 + .75) / 2
    assert pressure_focused(A, pressure_multiplier=1.0)[0] == pytest.approx(0.45)


def test_negative_multiplier_is_refused() -> None:
    with pytest.raises(InputError, match="wanted a pressure multiplier of 0 or more, found -1"):
        pressure_focused(A, pressure_multiplier=-1.0)
