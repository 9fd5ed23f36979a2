from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import InputError
from labkit.units import format_duration, parse_duration, parse_quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500m", 0.5),
        ("2", 2.0),
        ("2.5", 2.5),
        (".5", 0.5),
        ("4Gi", 4 * 2**30),
        ("1Ti", 2**40),
        ("512M", 512e6),
        ("1e3", 1000.0),
        ("1E", 1e18),
        ("1Ei", 2.0**60),
        ("100n", 1e-7),
        (8, 8.0),
    ],
)
def test_quantity_is_read_in_base_units(text: str | int, value: float) -> None:
    assert parse_quantity(text) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize("text", ["", "abc", "-1", "1Gib", "4 Gi", "1e999", "0x10", "NaN"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="wanted a"):
        parse_quantity(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30m", 1800.0), ("1h30m", 5400.0), ("1.5h", 5400.0), ("250ms", 0.25), ("90", 90.0), (15, 15.0), ("1d", 86400.0)],
)
def test_duration_is_read_in_seconds(text: str | int, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "1x", "m30", "1h 30m", "1.5h30m", "-5m", "-5", "inf", "nan"])
def test_what_is_no_duration_is_refused_rather_than_read_in_part(text: str) -> None:
    with pytest.raises(InputError, match="wanted a duration"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**9))
def test_duration_survives_writing_and_reading(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000, abs=1e-9)
