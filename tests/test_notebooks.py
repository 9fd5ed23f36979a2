"""Every notebook runs on the twin with small parameters, and every notebook is thin."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from example_fidelity import example_runs
from example_run import example_experiment
from traitlets.config import Config

from labkit import results
from labkit.datafiles import data_path

NOTEBOOKS = sorted(data_path("notebooks").glob("*.ipynb"))
MAX_CODE_CELLS = 14
SMALL: dict[str, dict[str, Any]] = {
    "02-single-run": {"duration": "4m"},
    "03-switch-algorithms": {"duration": "3m", "algorithms": ["none", "linear_amplified_ippd_k3"]},
    "06-fidelity": {"draws": 1},
    "07-analysis": {},
}
"""What makes a notebook small; others run with their own defaults."""
ELSEWHERE = ("01-bring-up",)
"""Needs a live lab: the live tests execute it."""


def cells(path: Path, kind: str) -> list[Any]:
    """The cells of a notebook of one kind."""
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem not in ELSEWHERE], ids=lambda path: path.stem)
def test_notebook_runs_on_the_twin(path: Path, tmp_path: Path) -> None:
    parameters = dict(SMALL.get(path.stem, {}))
    declared = papermill.inspect_notebook(str(path))
    if path.stem == "07-analysis":
        example_experiment(tmp_path / "made", seeds=2)
        parameters["folder"] = str(tmp_path / "made")
    if path.stem == "06-fidelity":
        parameters["folder"] = str(example_runs(tmp_path / "live"))
        parameters["against"] = [str(example_runs(tmp_path / "kind", backend="kind", repeats=2))]
    if "out" in declared:
        parameters["out"] = str(tmp_path / "run")
    executed = papermill.execute_notebook(
        str(path), str(tmp_path / "executed.ipynb"), parameters=parameters, kernel_name="python3", progress_bar=False,
        cwd=str(tmp_path), config=Config({"KernelManager": {"transport": "ipc", "ip": str(tmp_path / "k")}}),
    )  # fmt: skip
    shown = [output for cell in executed.cells for output in cell.get("outputs", [])]
    for cell in executed.cells:
        pictures = ["image/png" in output.get("data", {}) for output in cell.get("outputs", [])]
        assert any(pictures) == ("plt.subplots" in cell.source), cell.source
    assert not [output for output in shown if output.output_type == "error"]
    if path.stem == "06-fidelity":
        assert {each.stem for each in (tmp_path / "run" / "figures").iterdir()} == {"agreement", "ranks"}
        text = "\n".join(output.get("data", {}).get("text/markdown", "") for output in shown)
        assert "| algorithm | local | SD | range | twin |" in text
        assert "| algorithm | local | SD | range | kind |" in text
    if path.stem == "02-single-run":
        record = results.read_run(tmp_path / "run")
        assert (record.status, record.backend, record.summary["lab_seconds"]) == ("succeeded", "sim", 240.0)
        assert sorted(p.stem for p in (tmp_path / "run" / "figures").iterdir()) == [
            "migrations", "placement", "scores", "utilisation",
        ]  # fmt: skip


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_opens_with_its_question_and_then_its_imports(path: Path) -> None:
    first, second = nbformat.read(path, as_version=4).cells[:2]
    assert first.cell_type == "markdown"
    assert re.match(r"# .+\?$", first.source.splitlines()[0]), "the title is the question that the notebook answers"
    assert second.cell_type == "code"
    assert all(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(second.source).body)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_has_one_cell_of_parameters_literals_with_type_and_help(path: Path) -> None:
    tagged = [cell for cell in cells(path, "code") if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    for node in ast.parse(tagged[0].source).body:
        assert isinstance(node, ast.AnnAssign), ast.unparse(node)
        assert node.value is not None
        ast.literal_eval(node.value)
    for line in tagged[0].source.splitlines():
        assert line.startswith((" ", "]", "}", ")")) or "  # " in line or line.rstrip().endswith(("[", "{", "(")), line


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_thin(path: Path) -> None:
    code = cells(path, "code")
    assert len(code) <= MAX_CODE_CELLS
    for cell in code:
        tree = ast.parse(cell.source)
        assert not [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
        assert not re.search(r"\bsleep\(", cell.source)
        assert not re.search(r"""["'](/|~|[A-Z]:\\)\w""", cell.source), "no path of one machine"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_figure_has_a_reading(path: Path) -> None:
    all_cells = nbformat.read(path, as_version=4).cells
    for cell, following in zip(all_cells, [*all_cells[1:], None], strict=True):
        if cell.cell_type == "code" and "plt.subplots" in cell.source:
            assert following is not None
            assert following.cell_type == "markdown"
