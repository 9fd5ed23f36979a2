from pathlib import Path

import pytest

from labkit import experiment as exp
from labkit.datafiles import data_path
from labkit.errors import ExperimentError, InputError

ALGORITHMS = ("weighted_average", "ideal_point_positive_distance", "linear_amplified_ippd_k3")
SCENARIOS = ("churn", "hot-node", "quickstart")
WHOLE = """\
question: Does it help?
backend: sim
matrix: {algorithm: [none, oracle, ideal_point_positive_distance], scenario: [hot-node, churn], seed: [101, 102]}
duration: 30m
"""


def load(tmp_path: Path, text: str, **kwargs: object) -> exp.Experiment:
    path = tmp_path / "made.yaml"
    path.write_text(text)
    return exp.load(path, algorithms=ALGORITHMS, scenarios=SCENARIOS, **kwargs)  # type: ignore[arg-type]


def test_four_lines_are_a_whole_file(tmp_path: Path) -> None:
    experiment = load(tmp_path, WHOLE)
    assert experiment.name == "made"
    assert experiment.duration_seconds == 1800.0
    assert experiment.baseline == "none"  # production's default takes no part
    assert len(exp.expand(experiment)) == 3 * 2 * 2


def test_run_ids_are_readable_unique_and_in_a_fixed_order(tmp_path: Path) -> None:
    first, second = (exp.expand(load(tmp_path, WHOLE)) for _ in range(2))
    assert first == second
    ids = [run.run_id for run in first]
    assert len(set(ids)) == len(ids)
    assert ids[0] == "none-hot-node-s101-sim"


def test_all_means_the_whole_catalogue(tmp_path: Path) -> None:
    experiment = load(tmp_path, WHOLE.replace("[none, oracle, ideal_point_positive_distance]", "[none, all]"))
    assert experiment.algorithms == ("none", *ALGORITHMS)
    assert experiment.baseline == "linear_amplified_ippd_k3"


def test_an_algorithm_entered_twice_is_run_twice_under_two_names(tmp_path: Path) -> None:
    text = WHOLE.replace("[none, oracle, ideal_point_positive_distance]", "[weighted_average, weighted_average]")
    runs = [run for run in exp.expand(load(tmp_path, text)) if (run.scenario, run.seed) == ("churn", 101)]
    assert [run.label for run in runs] == ["weighted_average", "weighted_average (again)"]
    assert runs[0].run_id != runs[1].run_id
    assert runs[0].key({}) == runs[1].key({})


def test_seeds_may_be_a_range(tmp_path: Path) -> None:
    assert load(tmp_path, WHOLE.replace("[101, 102]", "101..104")).seeds == (101, 102, 103, 104)


def test_numbers_are_those_of_today_s_yaml(tmp_path: Path) -> None:
    text = WHOLE.replace("[101, 102]", "[08, 010]").replace("backend: sim", "backend: local\nrepeats: 2.0")
    experiment = load(tmp_path, text.replace("oracle, ", ""))
    assert (experiment.seeds, experiment.repeats) == ((8, 10), 2)
    assert isinstance(experiment.repeats, int)


def test_policies_name_their_runs(tmp_path: Path) -> None:
    policy = "policy: [{thresholds: 10:30}, {evictions_per_node: 1, soft_taints: true}, {}]"
    text = WHOLE.replace("seed: [101, 102]}", "seed: [1], " + policy + "}")
    names = {run.policy_name for run in exp.expand(load(tmp_path, text))}
    assert names == {"10:30", "node1-softtaints", ""}
    ids = [run.run_id for run in exp.expand(load(tmp_path, text))]
    assert "none-churn-10-30-s1-sim" in ids
    assert "none-churn-production-s1-sim" in ids


def test_live_runs_of_a_block_are_shuffled_the_same_way_each_time(tmp_path: Path) -> None:
    text = WHOLE.replace("oracle", "weighted_average").replace("backend: sim", "backend: local\nrepeats: 2")
    runs = exp.expand(load(tmp_path, text))
    blocks = [tuple(run.algorithm for run in runs[start : start + 3]) for start in range(0, len(runs), 3)]
    assert len(set(blocks)) > 1
    assert all(sorted(block) == sorted(blocks[0]) for block in blocks)
    assert runs == exp.expand(load(tmp_path, text))


def test_the_key_tells_runs_apart_by_what_decides_them(tmp_path: Path) -> None:
    runs = exp.expand(load(tmp_path, WHOLE))
    assert len({run.key({}) for run in runs}) == len(runs)
    assert runs[0].key({"rules": "a"}) != runs[0].key({"rules": "b"})


def test_backend_and_tempo_can_be_given_from_outside(tmp_path: Path) -> None:
    text = WHOLE.replace("oracle, ", "")
    assert load(tmp_path, text).tempo == 1
    local = load(tmp_path, text, backend="local")
    assert (local.backend, local.tempo) == ("local", 15)
    assert load(tmp_path, text, backend="local", tempo=5).tempo == 5


def test_a_scenario_may_be_a_file_beside_the_experiment(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("kind: SimulationScenario")
    experiment = load(tmp_path, WHOLE.replace("churn]", "mine.yaml]"))
    assert experiment.scenarios[1] == str((tmp_path / "mine.yaml").resolve())
    assert exp.expand(experiment)[-1].run_id == "ideal_point_positive_distance-mine-s102-sim"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("duration: 30m", "", r"made\.yaml:1: duration: wanted, but missing"),
        ("duration: 30m", "duration: soon", r":4: duration: wanted a duration such as 30m .* found 'soon'"),
        ("duration: 30m", "duration: 0", r":4: duration: wanted a duration above 0"),
        ("duration: 30m", "duration: 30m\nduration: 1h", r":5: wanted YAML, found: duration given twice"),
        ("backend: sim", "backend: cloud", r":2: backend: wanted one of sim, local, kind, found 'cloud'"),
        ("backend: sim", "backend: sim\ntempo: 60", r":3: tempo: wanted at most 15, found 60"),
        ("backend: sim", "backend: sim\nrepeats: 3", r":3: repeats: wanted 1 on sim"),
        ("backend: sim", "backend: local", r":3: matrix\.algorithm\[1\]: oracle runs on sim only"),
        ("backend: sim", "backend: sim\nbaselin: none", r":3: baselin: .*did you mean baseline\?"),
        ("backend: sim", "backend: sim\nbaseline: random", r":3: baseline: wanted one of matrix\.algorithm"),
        ("backend: sim", "backend: sim\nnotebook: no.ipynb", r":3: notebook: wanted a notebook"),
        ("backend: sim", "backend: sim\nmetrics: [speed]", r":3: metrics\[0\]: wanted a metric of .* found 'speed'"),
        ("none, oracle", "none, orakel", r":3: matrix\.algorithm\[1\]: wanted an algorithm .* found 'orakel'"),
        ("hot-node", "hot-nodes", r"matrix\.scenario\[0\]: wanted a scenario such as hot-node.* found 'hot-nodes'"),
        ("[101, 102]", "[101, x]", r"matrix\.seed: wanted a list of whole numbers such as \[1, 2\], or a range"),
        ("[101, 102]", "[101, 101]", r"wanted each combination once, found none-hot-node-s101-sim"),
        ("[101, 102]", "9..3", r"matrix\.seed: wanted a range that goes up, found 9\.\.3"),
        ("[101, 102]}", "[1], policy: [{limit: 3}]}", r"matrix\.policy\[0\]\.limit: wanted one of thresholds, "),
        ("[101, 102]}", "[1], policy: [{thresholds: x}]}", r"matrix\.policy\[0\]\.thresholds: .*LOW:HIGH"),
        ("[101, 102]}", "[1], policy: [{soft_taints: 1}]}", r"matrix\.policy\[0\]\.soft_taints: wanted true or false"),
        (
            WHOLE,
            WHOLE.replace("oracle, ", "")
            .replace("sim", "local")
            .replace("102]}", "102], policy: [{migration_cooldown: 5m}]}"),
            r"matrix\.policy\[0\]\.migration_cooldown: the cooldown exists on sim only",
        ),
        ("[101, 102]}", "[1], policy: [{evaluation_interval: 0s}]}", r"policy\[0\]\.evaluation_interval: .* above 0"),
        ("[101, 102]", "[1.5]", r"matrix\.seed: wanted a list of whole numbers"),
        ("[101, 102]", "[7, 8, 7]", r"wanted each combination once, found none-hot-node-s7-sim 2 times: remove"),
        ("duration: 30m", "duration: 2026-13-45", r":4: duration: wanted a duration such as 30m"),
        ("duration: 30m", "duration: !!int soon", r"wanted YAML, found: invalid literal for int"),
        ("duration: 30m", "duration: &again [*again]", r"wanted YAML, found: .*recursi"),
        ("duration: 30m", "duration: 30\0", r"wanted YAML, found: unacceptable character [^\n]*$"),
        (WHOLE, "just words", r"wanted a mapping with question"),
        (WHOLE, "question: [", r":1: wanted YAML"),
    ],
)
def test_what_is_wrong_is_said_with_file_line_and_field(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        exp.expand(load(tmp_path, WHOLE.replace(old, new)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"no\.yaml"):
        exp.load(tmp_path / "no.yaml", algorithms=ALGORITHMS, scenarios=SCENARIOS)


def test_policy_from_the_command_line_is_checked_too() -> None:
    assert exp.check_policy({"thresholds": "10:30"}) == {"thresholds": "10:30"}
    with pytest.raises(InputError, match="policy evictions_per_node: wanted at least 1"):
        exp.check_policy({"evictions_per_node": 0})
    with pytest.raises(InputError, match="wanted a duration"):
        exp.check_policy({"migration_cooldown": "long"})
    with pytest.raises(InputError, match="policy descheduling_interval: wanted an interval above 0, found '0m'"):
        exp.check_policy({"descheduling_interval": "0m"})


@pytest.mark.parametrize("path", sorted(data_path("experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_experiments_expand(path: Path) -> None:
    from labkit import scoring
    from labkit.scenario import scenario_names

    experiment = exp.load(path, algorithms=scoring.names(), scenarios=scenario_names())
    assert path.read_text().startswith("# ")
    assert exp.expand(experiment)


def test_part_of_a_name_is_recognised(tmp_path: Path) -> None:
    text = "question: x\nbackend: sim\nduration: 5m\nmatrix: {algorithm: [amplified_k], scenario: [churn], seed: [1]}"
    for slip, hint in (("ideal_point", "ideal_point_positive_distance"), ("ippd_k3", "linear_amplified_ippd_k3")):
        with pytest.raises(ExperimentError, match=f"wanted an algorithm such as {hint}, found '{slip}'"):
            load(tmp_path, text.replace("amplified_k", slip))


def test_the_document_has_every_field() -> None:
    text = (Path(__file__).parents[1] / "docs" / "experiments.md").read_text()
    top, matrix = exp.SCHEMA["properties"], exp.SCHEMA["properties"]["matrix"]["properties"]
    wanted = [*(name for name in top if name != "matrix"), *(f"matrix.{name}" for name in matrix)]
    assert [name for name in wanted if f"\n| `{name}` |" not in text] == []
    assert [name for name in exp.POLICY_SCHEMA["properties"] if f"`{name}`" not in text] == []


def test_the_documents_first_file_is_a_whole_one(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "experiments.md").read_text()
    whole = text.split("```yaml\n")[1].split("```")[0]
    assert len(exp.expand(load(tmp_path, whole))) == 12
