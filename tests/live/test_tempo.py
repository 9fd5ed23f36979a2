"""The same in lab time at whatever tempo: scores without descheduling, and the work that the descheduler does.

Labs of their own, side by side, at a tempo that divides the scrape interval and at one that does not. The long form,
from tempo 1 and with repetitions, is ``python -m benchmarks tempo tempo_loop``; its numbers are in docs/tempo.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from labkit import Lab, cluster
from labkit.analysis.alignment import Recording, align
from labkit.cluster import LabConfig
from labkit.lab import Run
from labkit.lab.evaluations import evaluations
from labkit.names import SCRAPE_INTERVAL_SECONDS
from labkit.scenario import parse_scenario
from labkit.scoring import FORMS, NINETEEN, Form, get

pytestmark = pytest.mark.live

TEMPOS = (5, 7, 15)
LOOP_TEMPOS = (5, 15)
ADDRESS = "127.0.0.{}"
MIGRATIONS_APART = 5
"""One cycle's worth; the most that single runs of one tempo were apart is in docs/tempo.md."""
DEVIATION_APART = 0.1
FORM_RECORDS = get("weighted_average").records
STEP = """
apiVersion: simulation.node-classifier.io/v1alpha1
kind: SimulationScenario
metadata: {name: one-step}
spec:
  duration: 150s
  seed: 1
  nodePools:
    - {name: node, count: 2, resources: {cpu: 32, memory: 128Gi}}
  vmPools:
    - name: stepping
      count: 8
      resources: {cpu: 4, memory: 16Gi}
      load: {cpu: {kind: step, start: 0.1, end: 0.65, at: 45s}, memory: 0.4}
      placement: {strategy: packed, nodes: [node-1]}
    - name: steady
      count: 8
      resources: {cpu: 4, memory: 16Gi}
      load: {cpu: 0.3, memory: 0.4}
      placement: {strategy: packed, nodes: [node-2]}
"""


@pytest.fixture(scope="module")
def labs(backend: str) -> Iterator[Mapping[int, Lab]]:
    if backend != "local":
        pytest.skip("the tempo is in the manifests, which both backends share")
    names = {tempo: f"test-tempo-{tempo}" for tempo in TEMPOS}
    try:
        for tempo, name in names.items():
            cluster.down(name)
            cluster.up(LabConfig(name=name, address=ADDRESS.format(100 + tempo), tempo=tempo))
        yield {tempo: Lab(name=name).up() for tempo, name in names.items()}
    finally:
        for name in names.values():
            cluster.down(name)


@pytest.fixture(scope="module")
def recordings(labs: Mapping[int, Lab]) -> Mapping[int, Mapping[Form, Recording]]:
    """Play one step of load everywhere, without descheduling."""

    def play(lab: Lab) -> Mapping[Form, Recording]:
        lab.apply(parse_scenario(yaml.safe_load(STEP), "one-step"))
        lab.use("none")
        lab.run()
        return {form: evaluations(lab, FORM_RECORDS[form]) for form in FORMS}

    with ThreadPoolExecutor(len(labs)) as pool:
        return dict(zip(labs, pool.map(play, labs.values()), strict=True))


@pytest.fixture(scope="module")
def runs(labs: Mapping[int, Lab], recordings: object) -> Mapping[int, Run]:
    """Play the quickstart with production's algorithm."""

    def play(tempo: int) -> Run:
        labs[tempo].apply("quickstart", seed=1)
        labs[tempo].use("linear_amplified_ippd_k3")
        return labs[tempo].run("5m")

    with ThreadPoolExecutor(len(LOOP_TEMPOS)) as pool:
        return dict(zip(LOOP_TEMPOS, pool.map(play, LOOP_TEMPOS), strict=True))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tempo", [5, 7])
def test_one_step_of_load_has_the_scores_of_tempo_15(
    recordings: Mapping[int, Mapping[Form, Recording]], tempo: int, form: Form
) -> None:
    ours, theirs = recordings[15][form], recordings[tempo][form]
    rise = ours.only("node-1").values
    assert rise[-1, 0] - rise[0, 0] == pytest.approx(0.147, abs=0.01)  # the step is there, and the window has passed
    found = align(ours, theirs, within_seconds=SCRAPE_INTERVAL_SECONDS)
    assert found.difference < 0.02, found


@pytest.mark.parametrize("tempo", TEMPOS)
def test_every_score_of_every_node_is_within_bounds(labs: Mapping[int, Lab], recordings: object, tempo: int) -> None:
    scores = labs[tempo].query('{__name__=~"descheduler:node:.+:(score|avg1m)"}', time_seconds=149.0)
    by_record = scores.groupby("__name__")
    assert set(by_record.groups) >= {record for each in NINETEEN for record in each.records.values()}
    assert (by_record["instance"].nunique() == 2).all()
    assert scores["value"].between(0.0, 1.0).all()


def test_descheduler_does_the_same_work_at_tempo_5_and_15(runs: Mapping[int, Run]) -> None:
    slow, fast = (runs[tempo].summary for tempo in LOOP_TEMPOS)
    assert slow["migrations"] >= 4
    assert abs(slow["migrations"] - fast["migrations"]) <= MIGRATIONS_APART
    assert abs(slow["cpu_stddev_final"] - fast["cpu_stddev_final"]) <= DEVIATION_APART


def test_cycles_come_at_the_same_distance_in_lab_time(runs: Mapping[int, Run]) -> None:
    for tempo, run in runs.items():
        assert run.timing["cycle_seconds"] == pytest.approx(60.0, abs=0.5 * tempo)
