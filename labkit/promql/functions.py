"""Functions of instant vectors that look at one sample, or one label set, at a time."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import numpy as np

from labkit.promql.labels import Labels, with_label
from labkit.promql.vector import FloatArray

__all__ = ["MATHS", "label_replacer"]


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
    expression = re.compile(pattern, re.DOTALL)

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
