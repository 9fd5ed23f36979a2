import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from example_run import LAB_SECONDS, example_tables

from labkit import analysis, results
from labkit.errors import InputError, ResultError

TOP_LEVEL_KEYS = {
    "api_version", "backend", "scenario", "algorithm", "seed", "tempo", "policy", "status", "error", "summary",
    "versions", "git_commit", "host", "started_at",
}  # fmt: skip


def make_record(run_id: str = "k3-hot-s1-sim", **changes: object) -> results.RunRecord:
    values: dict[str, object] = {
        "run_id": run_id, "backend": "sim", "scenario": "hot", "algorithm": "k3", "seed": 1, "tempo": 15,
        "policy": {}, "status": "succeeded", "error": None, "started_at": results.timestamp(),
        "summary": analysis.summarize(example_tables(), lab_seconds=LAB_SECONDS, wall_seconds=0.1),
    }  # fmt: skip
    return results.RunRecord(**(values | changes))  # type: ignore[arg-type]


def encoded() -> dict[str, bytes]:
    return results.encode_tables(example_tables())


def test_a_run_reads_back_as_it_was_written(tmp_path: Path) -> None:
    record, tables = make_record(), example_tables()
    folder = results.write_run(tmp_path / record.run_id, record, results.encode_tables(tables))
    assert results.read_run(folder) == record
    for name, frame in results.read_tables(folder).items():
        pd.testing.assert_frame_equal(frame, analysis.conform(name, tables[name]))


def test_run_json_has_the_promised_keys(tmp_path: Path) -> None:
    folder = results.write_run(tmp_path / "run", make_record(), encoded())
    content = json.loads((folder / "run.json").read_text())
    assert content.keys() >= TOP_LEVEL_KEYS
    assert content["api_version"] == "labkit/v1"


def test_writing_again_replaces_the_whole_folder(tmp_path: Path) -> None:
    folder = results.write_run(tmp_path / "run", make_record(seed=1), encoded())
    (folder / "left-over.txt").write_text("old")
    results.write_run(folder, make_record(seed=2), encoded())
    assert results.read_run(folder).seed == 2
    assert not (folder / "left-over.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_nothing_remains_of_a_run_that_could_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="missing: cycles"):
        results.encode_tables({"nodes": example_tables()["nodes"]})
    record = replace(make_record(), host={"name": object()})
    with pytest.raises(TypeError, match="not JSON serializable"):
        results.write_run(tmp_path / "run", record, encoded())
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResultError, match=r"wanted to write .*use another --out"):
        results.write_run(tmp_path / "file" / "run", make_record(), encoded())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param('{"api_version": "labkit/v0"}', "wanted api_version labkit/v1 .* found 'labkit/v0'", id="old"),
        pytest.param("{}", "found None", id="none"),
        pytest.param("[]", "found None", id="no object"),
        pytest.param('{"api_ver', "cannot read", id="cut off"),
        pytest.param('{"api_version": "labkit/v1", "colour": 1}', "cannot read", id="other fields"),
    ],
)
def test_another_format_is_refused_by_name(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ResultError, match=message):
        results.read_run(tmp_path)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    folder = results.write_run(tmp_path / "run", make_record(), encoded())
    (folder / "cycles.parquet").unlink()
    with pytest.raises(ResultError, match=r"cycles\.parquet"):
        results.read_tables(folder)


def test_runs_collect_to_one_row_each(tmp_path: Path) -> None:
    records = [make_record("b", seed=2, parameters={"nodes": 5}), make_record("a")]
    failed = make_record("c").failed("the descheduler died")
    frame = results.collect([*records, failed])
    assert frame["run_id"].tolist() == ["a", "b", "c"]
    assert frame.loc[frame["run_id"] == "b", "nodes"].item() == 5
    assert frame.loc[frame["run_id"] == "c", "status"].item() == "failed"
    assert frame["migrations"].isna().tolist() == [False, False, True]


def test_only_whole_folders_count_as_runs(tmp_path: Path) -> None:
    results.write_run(tmp_path / "run", make_record(), encoded())
    partial = tmp_path / ".partial-run-x"
    partial.mkdir()
    (partial / "run.json").write_text("{}")
    assert [folder.name for folder in results.run_folders(tmp_path)] == ["run"]


def test_a_run_that_failed_never_takes_the_place_of_one_that_succeeded(tmp_path: Path) -> None:
    target = tmp_path / "run"
    good, bad = make_record(seed=1), make_record(seed=2).failed("it broke")
    assert results.write_run(target, bad) == target
    results.write_run(target, good, encoded())
    beside = results.write_run(target, bad)
    assert beside == tmp_path / "failed" / "run"
    assert (results.read_run(target), results.read_run(beside).error) == (good, "it broke")
    assert results.run_folders(tmp_path) == [target]
    results.write_run(target, good, encoded())
    assert not beside.exists()


def test_a_place_with_something_else_in_it_is_no_place_for_a_run(tmp_path: Path) -> None:
    results.check_place(tmp_path / "new")
    results.check_place(tmp_path)
    results.write_run(tmp_path / "run", make_record(), encoded())
    results.check_place(tmp_path / "run")
    with pytest.raises(InputError, match="with something else in it"):
        results.check_place(tmp_path)
    with pytest.raises(InputError, match="with something else in it"):
        results.check_place(tmp_path / "run" / "run.json")


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ResultError, match=r"wanted to write .*table\.parquet, found: No space left on device"):
        results.write_table(tmp_path / "table.parquet", pd.DataFrame({"a": [1]}))


def test_the_commit_is_found_in_a_checkout_and_in_a_further_work_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labkit.__file__", str(tmp_path / "tree" / "labkit" / "__init__.py"))
    assert results.git_commit() is None
    own = tmp_path / "main" / ".git" / "worktrees" / "tree"
    (tmp_path / "tree").mkdir()
    (own / "../../refs/heads").resolve().mkdir(parents=True)
    own.mkdir(parents=True)
    (tmp_path / "tree" / ".git").write_text(f"gitdir: {own}\n")
    (own / "commondir").write_text("../..\n")
    (own / "HEAD").write_text("ref: refs/heads/mine\n")
    (own / "../../refs/heads/mine").resolve().write_text("abc123\n")
    assert results.git_commit() == "abc123"
    (own / "../../refs/heads/mine").resolve().unlink()
    (own / "../../packed-refs").resolve().write_text("# pack-refs\ndef456 refs/heads/mine\n")
    assert results.git_commit() == "def456"
    (own / "HEAD").write_text("0123\n")
    assert results.git_commit() == "0123"
