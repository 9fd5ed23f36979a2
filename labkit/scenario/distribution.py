"""Numbers that are given, or drawn once for each VM.

A distribution stands where a number could: ``{uniform: [a, b]}``, ``{normal: {mean, stddev}}`` (clipped at three
standard deviations, and at 0), ``{exponential: {mean}}`` (clipped at five means) or
``{choice: [a, b], weights: [1, 3]}``.

Each draw hashes seed, VM and field, so that it depends on nothing else: adding a pool changes no other VM.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any, Final

from labkit.errors import InputError

KEYS: Final = ("uniform", "normal", "exponential", "choice")

_NORMAL: Final = NormalDist()
Read = Callable[[Any], float]
"""Reads one number as the field means it: a ratio, a quantity or a duration."""


def is_distribution(value: Any) -> bool:
    """Tell whether a value is a distribution and not a number."""
    return isinstance(value, Mapping) and any(key in value for key in KEYS)


def uniform_number(seed: int, *path: str) -> float:
    """Return a number in [0, 1) that is a function of seed and path only."""
    digest = hashlib.blake2b("/".join((str(seed), *path)).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def seed_of(seed: int, *path: str) -> int:
    """Return a seed in [0, 2^53) for one VM's load."""
    return int(uniform_number(seed, *path) * 2**53)


def draw(value: Any, share: float, read: Read, where: str) -> float:
    """Return the number at a share of a distribution.

    Parameters
    ----------
    value : object
        A number as ``read`` understands it, or a distribution of such.
    share : float
        In [0, 1): where in the distribution (0.5 is its median).
    read : callable
        Turns what stands in the file into a number; its errors name the field themselves.
    where : str
        Name of the field, for error texts.

    Raises
    ------
    InputError
        If the distribution is not understood.
    """
    if not isinstance(value, Mapping):
        return read(value)
    kind = next((key for key in KEYS if key in value), None)
    extra = set(value) - ({"choice", "weights"} if kind == "choice" else {kind})
    if kind is None or extra:
        raise InputError(f"{where}: wanted a number or one of {', '.join(KEYS)}, found {dict(value)!r}")
    return _DRAW[kind](value, share, read, where)


def _uniform(value: Mapping[str, Any], share: float, read: Read, where: str) -> float:
    bounds = value["uniform"]
    if not isinstance(bounds, list) or len(bounds) != 2:
        raise InputError(f"{where}.uniform: wanted [low, high], found {bounds!r}")
    low, high = read(bounds[0]), read(bounds[1])
    if low > high:
        raise InputError(f"{where}.uniform: wanted the lower bound first, found {bounds!r}")
    return low + (high - low) * share


def _normal(value: Mapping[str, Any], share: float, read: Read, where: str) -> float:
    given = value["normal"]
    if not isinstance(given, Mapping) or set(given) != {"mean", "stddev"}:
        raise InputError(f"{where}.normal: wanted mean and stddev, found {given!r}")
    mean, deviation = read(given["mean"]), read(given["stddev"])
    standard = _NORMAL.inv_cdf(min(max(share, 1e-12), 1 - 1e-12))
    return max(0.0, mean + deviation * min(max(standard, -3.0), 3.0))


def _exponential(value: Mapping[str, Any], share: float, read: Read, where: str) -> float:
    given = value["exponential"]
    if not isinstance(given, Mapping) or set(given) != {"mean"}:
        raise InputError(f"{where}.exponential: wanted mean, found {given!r}")
    return read(given["mean"]) * min(-math.log1p(-share), 5.0)


def _choice(value: Mapping[str, Any], share: float, read: Read, where: str) -> float:
    options = value["choice"]
    if not isinstance(options, list) or not options:
        raise InputError(f"{where}.choice: wanted a list, found {options!r}")
    numbers = [read(option) for option in options]
    weights = value.get("weights", [1] * len(options))
    usable = isinstance(weights, list) and all(isinstance(w, (int, float)) and w >= 0 for w in weights)
    if not usable or len(weights) != len(options) or not sum(weights) > 0:
        raise InputError(f"{where}.weights: wanted one weight per choice, 0 or more, found {weights!r}")
    wanted, passed = share * sum(weights), 0.0
    for number, weight in zip(numbers, weights, strict=True):
        passed += weight
        if wanted < passed:
            return number
    return numbers[-1]


_DRAW: Final[Mapping[str, Callable[[Mapping[str, Any], float, Read, str], float]]] = {
    "uniform": _uniform,
    "normal": _normal,
    "exponential": _exponential,
    "choice": _choice,
}
