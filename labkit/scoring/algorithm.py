"""What an algorithm is: a name, the record the descheduler asks for, and how the score comes about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeVar, overload

import numpy as np

from labkit.errors import InputError
from labkit.model import FloatArray, Snapshot
from labkit.names import BASE_RECORDS, MINUTE_RECORDS

Form = Literal["score", "avg1m"]
ComputedBy = Literal["rule", "scorer"]
ScoreFunction = Callable[[Snapshot], FloatArray]
FunctionT = TypeVar("FunctionT", bound=ScoreFunction)

FORMS: Final[tuple[Form, ...]] = ("score", "avg1m")
"""``score``: from the load of this instant. ``avg1m``: from the load of the last minute, as production's."""

FORM_RECORDS: Final[Mapping[Form, Mapping[str, str]]] = {"score": BASE_RECORDS, "avg1m": MINUTE_RECORDS}
"""The records, by dimension, that a form is computed from."""

SCORER_METRIC: Final = "lab_node_score"
"""The scorer's gauge: labels ``algorithm``, ``form``, ``instance``."""

MARK: Final = "__labkit_algorithm__"


def record_name(name: str, form: Form) -> str:
    """Return the record of an algorithm of the lab, such as ``descheduler:node:max_metric:avg1m``."""
    return f"descheduler:node:{name}:{form}"


@dataclass(frozen=True)
class Algorithm:
    """A way to score nodes.

    Parameters
    ----------
    name : str
        Lower-case words joined by underscores.
    family : str
        Algorithms that share an idea; ``production`` for records that only production names, ``yours`` for users'.
    computed_by : {"rule", "scorer"}
        Who computes it on the live backends: Prometheus by a recording rule, or the scorer in Python.
    description : str
        One line.
    records : mapping of form to str
        Record of each form it has.
    function : callable, optional
        From a snapshot to scores, shape (n_nodes,), in [0, 1]; None for an algorithm that is only a PromQL rule.
    rules : tuple of mapping
        Recording rules (``record``, ``expr``, ``labels``) to add to the lab's; empty for the built-in ones.
    file : Path, optional
        Where a user's algorithm is written.
    """

    name: str
    family: str
    computed_by: ComputedBy
    description: str
    records: Mapping[Form, str]
    function: ScoreFunction | None = None
    rules: tuple[Mapping[str, object], ...] = ()
    file: Path | None = field(default=None)

    @property
    def record(self) -> str:
        """The record that the descheduler is told to ask for: the one-minute form where there is one."""
        return self.records["avg1m"] if "avg1m" in self.records else self.records["score"]

    def score(self, snapshot: Snapshot) -> FloatArray:
        """Score the nodes of a snapshot.

        Returns
        -------
        FloatArray
            Shape (n_nodes,), in the order of ``snapshot.nodes``; in [0, 1] for every algorithm of the lab.

        Raises
        ------
        InputError
            If the algorithm is only a PromQL rule, or a user's function fails or returns another shape.
        """
        if self.function is None:
            raise InputError(
                f"wanted a Python definition of {self.name}, found a PromQL rule in {self.file}: "
                "use the engine promql or prometheus"
            )
        if self.file is None:
            return self.function(snapshot)
        try:
            values = np.asarray(self.function(snapshot), dtype=np.float64)
        except Exception as exc:  # a user's code may fail in any way; the message says whose it is
            raise InputError(f"{self.file}: {self.name} failed with {type(exc).__name__}: {exc}") from exc
        if values.shape != (len(snapshot.nodes),):
            raise InputError(
                f"{self.file}: wanted {self.name} to return one number for each of {len(snapshot.nodes)} nodes, "
                f"found the shape {values.shape}"
            )
        return values


@overload
def algorithm(function: FunctionT, /) -> FunctionT: ...
@overload
def algorithm(*, name: str = "", description: str = "") -> Callable[[FunctionT], FunctionT]: ...
def algorithm(
    function: FunctionT | None = None, /, *, name: str = "", description: str = ""
) -> FunctionT | Callable[[FunctionT], FunctionT]:
    """Mark a function of your own as an algorithm.

    Put it into a file of one of the folders of :func:`labkit.scoring.user.places`; it is then known by its name
    wherever the lab's own are.

    Parameters
    ----------
    function : callable
        From a :class:`~labkit.model.Snapshot` to one score per node, in [0, 1].
    name : str
        The algorithm's name; the function's own without it.
    description : str
        One line; the first line of the function's docstring without it.

    Examples
    --------
    >>> @algorithm
    ... def busiest_resource(snapshot):
    ...     '''Score by the larger of CPU and memory use.'''
    ...     return snapshot.load_ratio[:, [0, 2]].max(axis=1)
    """

    def mark(marked: FunctionT) -> FunctionT:
        text = description or (marked.__doc__ or "").strip().partition("\n")[0]
        own_name = name or getattr(marked, "__name__", "")
        setattr(marked, MARK, (own_name, text))
        return marked

    return mark if function is None else mark(function)
