"""The document that answers which algorithm to choose: what fills it, and what it tells to apply."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from example_run import example_experiment

from labkit import scoring
from labkit.scoring import recipe
from tools import which_algorithm

ALGORITHMS = ("weighted_average", "ideal_point_positive_distance", "linear_amplified_ippd_k3", "none", "oracle")


def test_the_document_is_filled_from_an_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example_experiment(tmp_path / "made", algorithms=ALGORITHMS, scenarios=("hot", "churny"), seeds=3)
    document = tmp_path / "docs" / "which-algorithm.md"
    document.parent.mkdir()
    document.write_text(which_algorithm.DOCUMENT.read_text())
    monkeypatch.setattr(which_algorithm, "DOCUMENT", document)
    assert which_algorithm.main([str(tmp_path / "made"), "--live", str(tmp_path / "made")]) == 0
    text = document.read_text()
    assert "30 of 30 runs of the twin" in text
    assert re.search(r"\| \*\*coolest hot spots\*\* \| `\w+` \|", text)
    assert text.count("<!-- end of table -->") == which_algorithm.DOCUMENT.read_text().count("<!-- end of table -->")
    figures = {path.name for path in (document.parent / "figures").iterdir()}
    assert figures == {"which-algorithm-trade.png", "which-algorithm-hot-spots.png"}


def test_what_the_document_tells_to_apply_is_what_the_lab_applies() -> None:
    text = which_algorithm.DOCUMENT.read_text().partition("<!-- table: apply -->")[2]
    sections = re.findall(r"### `(\w+)`: .*?\n(.*?)(?=\n### |<!-- end)", text, re.DOTALL)
    chosen = set(re.findall(r"\| \*\*.*?\*\* \| `(\w+)` \|", which_algorithm.DOCUMENT.read_text()))
    assert {name for name, _ in sections} == chosen
    for name, section in sections:
        policy, rule = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", section, re.DOTALL))
        assert policy["args"]["metricsUtilization"]["prometheus"]["query"] == scoring.get(name).record
        assert rule == yaml.safe_load(recipe.own_rules(name))
