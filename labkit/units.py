"""Quantities and durations as Kubernetes and Prometheus write them.

Numbers inside the lab are plain floats in base units: cores, bytes, seconds, ratios in [0, 1].
"""

from __future__ import annotations

import math
import re
from typing import Final

from labkit.errors import InputError

GIB: Final = 2**30

_QUANTITY = re.compile(r"^(?P<number>\d+(?:\.\d*)?|\.\d+)(?P<suffix>[KMGTPE]i|[munkMGTPE]|[eE][+-]?\d+)?$")
_FACTORS: Final = {
    "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0,
    "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip
_DURATION = re.compile(r"(\d+)(ms|s|m|h|d|w)")
_SECONDS: Final = {"w": 604800.0, "d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def parse_quantity(text: str | int | float) -> float:
    """Read a Kubernetes quantity such as ``500m``, ``4Gi`` or ``2.5``.

    Returns
    -------
    float
        The value in base units (cores, bytes), not negative.

    Raises
    ------
    InputError
        If the text is no quantity.
    """
    match = _QUANTITY.match(str(text).strip())
    if match is None:
        raise InputError(f"wanted a quantity such as 500m or 4Gi, found {text!r}")
    suffix = match["suffix"] or ""
    factor = (
        float(f"1{suffix}") if suffix[:1] in ("e", "E") and len(suffix) > 1 and suffix != "Ei" else _FACTORS[suffix]
    )
    value = float(match["number"]) * factor
    if not math.isfinite(value):
        raise InputError(f"wanted a finite quantity, found {text!r}")
    return value


def parse_duration(text: str | int | float) -> float:
    """Read a duration such as ``30m``, ``1h30m`` or ``1.5h``; a bare number means seconds.

    Returns
    -------
    float
        Seconds, not negative.

    Raises
    ------
    InputError
        If any part of the text is not understood (``1.5`` of a prefix is never read as 1).
    """
    raw = str(text).strip()
    try:
        value = float(raw)
    except ValueError:
        single = re.fullmatch(r"(\d+\.\d+)(ms|s|m|h|d|w)", raw)
        if single:
            return float(single[1]) * _SECONDS[single[2]]
        parts = _DURATION.findall(raw)
        if not parts or "".join(number + unit for number, unit in parts) != raw:
            raise InputError(f"wanted a duration such as 30m or 1h30m, found {text!r}") from None
        return float(sum(int(number) * _SECONDS[unit] for number, unit in parts))
    if not math.isfinite(value) or value < 0:
        raise InputError(f"wanted a duration such as 30m or 1h30m, found {text!r}")
    return value


def format_duration(seconds: float) -> str:
    """Write seconds as Prometheus and Kubernetes accept them, exact to the millisecond.

    Examples
    --------
    >>> format_duration(90.0), format_duration(0.25), format_duration(3600.0)
    ('1m30s', '250ms', '1h')
    """
    milliseconds = round(seconds * 1000)
    if milliseconds == 0:
        return "0s"
    text = ""
    for unit in ("h", "m", "s", "ms"):
        size = round(_SECONDS[unit] * 1000)
        count, milliseconds = divmod(milliseconds, size)
        if count:
            text += f"{count}{unit}"
    return text
