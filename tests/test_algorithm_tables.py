from __future__ import annotations

import re

from labkit.scoring import NINETEEN
from tools import algorithm_tables


def test_tables_of_the_document_are_as_they_would_be_written() -> None:
    text = algorithm_tables.DOCUMENT.read_text()
    tables = {name: make() for name, make in algorithm_tables.TABLES.items() if name != "errors"}
    assert algorithm_tables.rendered(text, tables) == text


def test_document_explains_every_algorithm() -> None:
    text = algorithm_tables.DOCUMENT.read_text()
    explained = set(re.findall(r"\*\*`([a-z0-9_]+)`\*\*", text))
    explained |= {f"linear_amplified_ippd{end}" for end in explained if end.startswith("_k")}
    assert {each.name for each in NINETEEN} <= explained


def test_errors_in_the_document_are_within_the_tolerance() -> None:
    text = algorithm_tables.DOCUMENT.read_text()
    table = re.search(r"<!-- table: errors -->\n(.*?)<!-- end", text, re.DOTALL)
    assert table is not None
    rows = [line.split("|")[1:4] for line in table[1].splitlines()[2:]]
    assert {row[0].strip(" `") for row in rows} >= {each.name for each in NINETEEN}
    assert all(float(error) <= 1e-9 for row in rows for error in row[1:])
