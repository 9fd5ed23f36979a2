"""Algorithms of the user's own: found, checked, refused with one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from worked_sets import A, B

from labkit import engines, scoring
from labkit.cli import EXIT_BAD_INPUT, main
from labkit.errors import InputError
from labkit.scoring import user

RULE = """
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: larger-use
  annotations: {description: larger of CPU and memory use}
spec:
  groups:
    - name: larger-use
      rules:
        - record: descheduler:node:larger_use:score
          expr: |-
            (descheduler:node:cpu_usage:ratio >= descheduler:node:memory_usage:ratio)
            or descheduler:node:memory_usage:ratio
"""
FUNCTION = '''
from labkit.scoring import algorithm

@algorithm
def larger_use(snapshot):
    """Score by the larger of CPU and memory use."""
    return snapshot.load_ratio[:, [0, 2]].max(axis=1)
'''


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "algorithms"
    folder.mkdir()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv(user.FOLDERS_VARIABLE, str(folder))
    return folder


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(("name", "text"), [("own.yaml", RULE), ("own.py", FUNCTION)], ids=["rule", "function"])
def test_own_algorithm_is_known_by_its_name(own: Path, name: str, text: str) -> None:
    path = written(own, name, text)
    found = scoring.get("larger_use")
    assert (found.family, found.file) == ("yours", path)
    assert "larger of CPU and memory use" in found.description
    assert "larger_use" in scoring.names()


@pytest.mark.parametrize(("name", "text"), [("own.yaml", RULE), ("own.py", FUNCTION)], ids=["rule", "function"])
def test_own_algorithm_through_the_compiler(own: Path, name: str, text: str) -> None:
    written(own, name, text)
    found = engines.scores([scoring.get("larger_use")], A, engine="promql")
    assert found["larger_use"] == pytest.approx({"n1": 0.9, "n2": 0.5, "n3": 0.2})


def test_own_function_is_its_own_reference(own: Path) -> None:
    written(own, "own.py", FUNCTION)
    np.testing.assert_allclose(scoring.get("larger_use").score(B), [0.9, 0.8, 0.5, 0.7, 0.9, 0.95])


def test_rule_has_no_reference(own: Path) -> None:
    written(own, "own.yaml", RULE)
    with pytest.raises(InputError, match="use the engine promql or prometheus"):
        scoring.get("larger_use").score(A)


def test_configuration_folder_is_searched(tmp_path: Path) -> None:
    folder = tmp_path / "config" / "labkit" / "algorithms"
    folder.mkdir(parents=True)
    written(folder, "own.py", FUNCTION)
    assert scoring.get("larger_use").file == folder / "own.py"


def test_broken_file_disturbs_no_other(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(own, "broken.py", "def")
    written(own, "own.py", FUNCTION)
    assert main(["algorithms", "--json"]) == 0
    shown = capsys.readouterr()
    assert [row["name"] for row in json.loads(shown.out)][-1] == "larger_use"
    assert shown.err.startswith(f"labkit: left out: {own / 'broken.py'}: cannot be executed: SyntaxError")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("own.txt", FUNCTION, "wanted a file that ends in .yaml or .py"),
        ("own.py", "x = 1", "wanted a function marked by @algorithm"),
        ("own.py", FUNCTION.replace("larger_use", "LargerUse"), "wanted a name of lower-case letters"),
        ("own.py", FUNCTION.replace("larger_use", "max_metric"), "found max_metric, which is the lab's"),
        ("own.py", FUNCTION.replace("larger_use", "oracle"), "found oracle, which is the lab's"),
        ("own.yaml", "a: [", "is no YAML"),
        ("own.yaml", "- 1", "wanted a PrometheusRule object"),
        ("own.yaml", "groups: [{name: g}]", "wanted a list of rules in each group"),
        ("own.yaml", RULE.replace("larger_use:score", "larger_use"), "wanted a record called descheduler:node:NAME"),
        ("missing.yaml", None, "cannot be read"),
    ],
    ids=["ending", "no mark", "name", "taken", "reserved", "no YAML", "list", "no rules", "record", "missing"],
)  # fmt: skip
def test_file_that_holds_no_algorithm_is_refused(own: Path, name: str, text: str | None, message: str) -> None:
    path = own / name if text is None else written(own, name, text)
    with pytest.raises(InputError, match=message):
        scoring.load(path)


def test_two_files_of_one_name_are_refused(own: Path) -> None:
    written(own, "a.py", FUNCTION)
    written(own, "b.yaml", RULE)
    assert "larger_use is already defined" in str(scoring.unreadable()[0])


# --- labkit algorithms check ---------------------------------------------------------------------------


def checked(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(["algorithms", "check", str(path)])
    shown = capsys.readouterr()
    return code, shown.out if code == 0 else shown.err


@pytest.mark.parametrize(("name", "text"), [("own.yaml", RULE), ("own.py", FUNCTION)], ids=["rule", "function"])
def test_fit_algorithm_passes(own: Path, name: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = checked(written(own, name, text), capsys)
    assert code == 0
    assert shown.startswith("larger_use is fit for the descheduler")
    assert "at 1,000 nodes" in shown


PRESSURE = "descheduler:node:cpu_pressure:psi"


@pytest.mark.parametrize(
    ("expr", "message"),
    [
        (f"{PRESSURE} / on () group_left () sum({PRESSURE})", "found NaN for node-0000: does it divide by zero?"),
        (f"{PRESSURE} * 2", "found 2 for node-0000: clamp it"),
        (f"sum({PRESSURE})", "wanted the label 'instance'"),
        (f"{PRESSURE} > 0.2", "wanted one sample for each node, found none for"),
        (
            f'label_replace({PRESSURE}, "form", "a", "", "") or label_replace({PRESSURE}, "form", "b", "", "")',
            "wanted one sample per node, found several",
        ),
        ("no such", "own.yaml"),
        ("holt_winters(up[5m], 0.5, 0.5)", "own.yaml"),
    ],
    ids=["NaN", "range", "no node", "gaps", "two samples", "no PromQL", "unsupported"],
)
def test_unfit_rule_is_answered_with_one_line(
    own: Path, expr: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    document = yaml.safe_load(RULE)
    document["spec"]["groups"][0]["rules"][0]["expr"] = expr
    code, shown = checked(written(own, "own.yaml", yaml.safe_dump(document)), capsys)
    assert code == EXIT_BAD_INPUT
    assert message in shown
    assert len(shown.splitlines()) == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("snapshot.load_ratio.max()", "wanted larger_use to return one number for each"),
        ("1 / 0", "larger_use failed with ZeroDivisionError"),
        ("snapshot.load_ratio[:, 0] * 3", "clamp it"),
        ("[1.0] + [0.0] * (len(snapshot.nodes) - 1)", "wanted the score of a node to follow from loads alone"),
    ],
    ids=["shape", "raises", "range", "by name"],
)
def test_unfit_function_is_answered_with_one_line(
    own: Path, body: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = FUNCTION.replace("snapshot.load_ratio[:, [0, 2]].max(axis=1)", body)
    code, shown = checked(written(own, "own.py", text), capsys)
    assert code == EXIT_BAD_INPUT
    assert message in shown
    assert len(shown.splitlines()) == 1


def test_notes_say_what_a_fit_algorithm_will_not_do(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = FUNCTION.replace("snapshot.load_ratio[:, [0, 2]].max(axis=1)", "snapshot.load_ratio[:, 0] * 0.05")
    code, shown = checked(written(own, "own.py", text), capsys)
    assert code == 0
    assert "use smaller thresholds or amplify it" in shown


# --- to a live lab ---------------------------------------------------------------------------------------


def test_manifests_carry_functions_and_rules(own: Path) -> None:
    written(own, "own.py", FUNCTION)
    written(own, "other.yaml", RULE.replace("larger_use", "other_use"))
    config_map, *rules = user.manifests(scoring.algorithms())
    assert config_map["metadata"]["name"] == user.CONFIG_MAP
    assert config_map["data"] == {"own.py": FUNCTION}
    assert [each["metadata"]["name"] for each in rules] == ["user-other", "user-own"]
    records = [rule["record"] for each in rules for rule in each["spec"]["groups"][0]["rules"]]
    assert records == [
        "descheduler:node:other_use:score",
        "descheduler:node:larger_use:score",
        "descheduler:node:larger_use:avg1m",
    ]
