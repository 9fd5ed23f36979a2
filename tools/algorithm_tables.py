"""Write the tables of ``docs/algorithms.md``: algorithms, worked values, behaviour, agreement of the engines.

Each table stands between two comments, ``<!-- table: NAME -->`` and ``<!-- end of table -->``. ``--check`` compares all
but the digits of measured errors, which differ by machine in the last bits; these must stay below the tolerance.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from labkit import agreement, fitness
from labkit.cluster import tools
from labkit.datafiles import data_path
from labkit.errors import ToolError
from labkit.model import Snapshot
from labkit.names import DIMENSIONS
from labkit.promql import load_rules
from labkit.scoring import BUILT_IN, NINETEEN
from tools.generated import write_or_check

DOCUMENT: Final = Path(__file__).parent.parent / "docs" / "algorithms.md"
SIZES: Final = (1, 2, 3, 5, 8, 12)
INSTANTS: Final = 30
CLUSTERS: Final = 200
_TABLE = re.compile(r"<!-- table: (?P<name>[a-z-]+) -->\n.*?<!-- end of table -->", re.DOTALL)
_ERROR = re.compile(r"\b(?:\d(?:\.\d)?e-\d+|0)(?= \|)")

SETS: Final = {
    "A": Snapshot.of(["n1", "n2", "n3"], [(0.9, 0.3, 0.6, 0.0), (0.5, 0.0, 0.4, 0.1), (0.1, 0.0, 0.2, 0.2)]),
    "B": Snapshot.of(
        ["n1", "n2", "n3", "n4", "n5", "n6"],
        [
            (0.1, 0.01, 0.9, 0.09),
            (0.2, 0.02, 0.8, 0.08),
            (0.4, 0.04, 0.5, 0.05),
            (0.7, 0.07, 0.3, 0.03),
            (0.9, 0.09, 0.1, 0.01),
            (0.95, 0.2, 0.95, 0.2),
        ],
    ),
}


def algorithms() -> str:
    """Return the table of names, families, records and who computes them."""
    rows = (
        (f"`{each.name}`", each.family, each.computed_by, f"`{each.record}`", each.description) for each in BUILT_IN
    )
    return table(("name", "family", "computed by", "record the descheduler asks for", "in a line"), rows)


def worked_sets() -> str:
    """Return the loads of the worked sets."""
    rows = (
        (name, node, *(f"{value:g}" for value in load))
        for name, snapshot in SETS.items()
        for node, load in zip(snapshot.nodes, snapshot.load_ratio.tolist(), strict=True)
    )
    return table(("set", "node", *DIMENSIONS), rows)


def worked_values() -> str:
    """Return every algorithm's scores of the worked sets."""
    head = ("algorithm", *(f"{name} {node}" for name, snapshot in SETS.items() for node in snapshot.nodes))
    rows = (
        (f"`{each.name}`", *(f"{value:.4f}" for snapshot in SETS.values() for value in each.score(snapshot)))
        for each in NINETEEN
    )
    return table(head, rows)


def behaviour() -> str:
    """Return what each algorithm's scores do on ordinary clusters."""
    tried = list(fitness.ordinary_clusters(CLUSTERS))
    rows = []
    for each in NINETEEN:
        seen = fitness.behaviour([(snapshot, each.score(snapshot)) for snapshot in tried])
        rows.append(
            (
                f"`{each.name}`",
                str(seen.ten_points),
                str(seen.idle_above),
                "yes" if seen.always_one else "no",
            )
        )
    return table(
        ("algorithm", "a node ten points above the mean", "least loaded node above the mean", "some node always at 1"),
        rows,
    )


def errors() -> str:
    """Measure how far compiler and Prometheus are from the reference; return the largest errors.

    Raises
    ------
    ToolError
        If there is no promtool.
    """
    promtool = tools.find("promtool")
    histories = [
        agreement.random_history(np.random.default_rng(seed), nodes=nodes, instants=INSTANTS)
        for seed, nodes in enumerate(SIZES, start=1)
    ]
    group = load_rules(data_path("rules", "scores.yaml"))
    compiler: dict[str, float] = {}
    for history in histories:
        found = agreement.differences(agreement.expected(history), agreement.compiled(history, group))
        compiler = {record: max(error, compiler.get(record, 0.0)) for record, error in found.items()}
    with tempfile.TemporaryDirectory() as name:
        rules_file = Path(name) / "scores.groups.yaml"
        agreement.write_groups(rules_file)
        document = agreement.promtool_document(
            histories,
            rules_file,
            expression=agreement.largest_error,
            instants=lambda count: (count // 3, count // 2, count - 1),
            records=[record for each in BUILT_IN for record in each.records.values()],
        )
        prometheus = agreement.measured_errors(agreement.run_promtool(promtool, document, Path(name)))
    rows = []
    for each in BUILT_IN:
        cells = [f"`{each.name}`"]
        for measured in (compiler, prometheus):
            largest = max(measured[record] for record in each.records.values())
            if largest > agreement.TOLERANCE:
                raise SystemExit(f"{each.name}: wanted an error of at most {agreement.TOLERANCE}, found {largest}")
            cells.append(f"{largest:.1e}" if largest else "0")
        rows.append(tuple(cells))
    return table(("algorithm", "compiler", "Prometheus"), rows)


TABLES: Final[Mapping[str, Callable[[], str]]] = {
    "algorithms": algorithms,
    "worked-sets": worked_sets,
    "worked-values": worked_values,
    "behaviour": behaviour,
    "errors": errors,
}


def rendered(text: str, tables: Mapping[str, str]) -> str:
    """Return a document with its tables replaced; tables that are not given stay."""

    def filled(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in tables:
            return match[0]
        return f"<!-- table: {name} -->\n{tables[name]}\n<!-- end of table -->"

    return _TABLE.sub(filled, text)


def document() -> dict[Path, str]:
    """Return the document and what it should hold; without promtool its table of errors stays."""
    tables = {name: make() for name, make in TABLES.items() if name != "errors"}
    try:
        tables["errors"] = errors()
    except ToolError as error:
        sys.stderr.write(f"docs/{DOCUMENT.name}: the table of errors was not measured: {error}\n")
    return {DOCUMENT: rendered(DOCUMENT.read_text(encoding="utf-8"), tables)}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the document, or tell whether it is as it would be written."""
    return write_or_check(__doc__, document, argv, same=lambda one, other: _masked(one) == _masked(other))


def _masked(text: str) -> str:
    """Hide the digits that differ by machine."""
    return _ERROR.sub("*", text)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
