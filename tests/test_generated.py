"""Generated files: written when asked to, and named when they are out of date."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tools import generated, metric_table


def test_a_file_out_of_date_is_named_and_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generated, "ROOT", tmp_path)
    wanted = {tmp_path / "new" / "a.txt": "a 1\n"}
    assert generated.write_or_check("", lambda: wanted, ["--check"]) == 1
    assert capsys.readouterr().err == "new/a.txt is out of date: run 'make update'\n"
    assert generated.write_or_check("", lambda: wanted, ["--write"]) == 0
    assert generated.write_or_check("", lambda: wanted, ["--check"]) == 0
    other = {tmp_path / "new" / "a.txt": "a 2\n"}
    assert generated.write_or_check("", lambda: other, ["--check"]) == 1
    assert generated.write_or_check("", lambda: other, ["--check"], same=lambda a, b: a[0] == b[0]) == 0


def test_a_generator_wants_to_know_what_to_do() -> None:
    for name in generated.GENERATORS:
        with pytest.raises(SystemExit) as error:
            importlib.import_module(name).main([])
        assert error.value.code == 2


def test_the_table_of_metrics_is_as_it_would_be_written() -> None:
    assert metric_table.main(["--check"]) == 0
    assert "| `migrations` | Migrations | lower |" in metric_table.DOCUMENT.read_text()
