"""Functions of instant vectors that look at one sample, or one label set, at a time."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import numpy as np

from labkit.promql.labels import Labels, with_label
from labkit.promql.syntax import compile_pattern
from labkit.promql.vector import FloatArray

__all__ = ["MATHS", "label_replacer", "power", "rounded"]


def _sign(values: FloatArray) -> FloatArray:
    return np.where(values == 0, values, np.sign(values))


MATHS: Final[dict[str, Callable[[FloatArray], FloatArray]]] = {
    "abs": np.abs,
    "ceil": np.ceil,
    "exp": np.exp,
    "floor": np.floor,
    "ln": np.log,
    "log10": np.log10,
    "log2": np.log2,
    "sgn": _sign,
    "sqrt": np.sqrt,
}
"""Functions of one value, by their PromQL names."""

_REFERENCE: Final = re.compile(r"\$(?:\$|\{(?P<braced>\w+)\}|(?P<plain>\w+))", re.ASCII)


def label_replacer(target: str, replacement: str, source: str, pattern: str) -> Callable[[Labels], Labels]:
    """Return what ``label_replace`` does to a label set.

    Parameters
    ----------
    target : str
        Label that is set; removed when the replacement comes out empty.
    replacement : str
        Text in which ``$1``, ``${1}`` and ``$name`` stand for groups of the match; ``$$`` is a dollar sign.
        A name is as long as it can be, and one that does not exist is empty, as in Go.
    source : str
        Label that is looked at; a missing one is empty.
    pattern : str
        Regular expression that must match all of it; otherwise the label set stays.

    Raises
    ------
    re.error
        If the pattern is not understood.
    """
    expression = compile_pattern(pattern)

    def change(row: Labels) -> Labels:
        found = expression.fullmatch(dict(row).get(source, ""))
        if found is None:
            return row
        match = found

        def expand(reference: re.Match[str]) -> str:
            name = reference["braced"] or reference["plain"]
            if name is None:
                return "$"
            key: int | str = int(name) if name.isdigit() else name
            try:
                return match[key] or ""
            except IndexError:
                return ""

        return with_label(row, target, _REFERENCE.sub(expand, replacement))

    return change


def rounded(values: FloatArray, nearest: float) -> FloatArray:
    """Round to multiples, ties upwards, by the inverse as Prometheus does."""
    inverse = np.divide(1.0, nearest)
    return np.asarray(np.floor(values * inverse + 0.5) / inverse)


def power(values: FloatArray, exponent: float) -> FloatArray:
    """Raise to a scalar power; squares and roots exactly as the processor rounds them, on any machine."""
    if exponent == 2.0:
        return values * values
    if exponent == 0.5:
        # Go's Pow takes the root too; -Inf is the one value where the two differ.
        return np.where(values == -np.inf, np.inf, np.sqrt(values))
    return np.asarray(np.power(values, exponent))
