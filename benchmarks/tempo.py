"""One load step at tempo 1, 5 and 15, without descheduling: how alike the scores are in lab time.

Three labs of their own (names and addresses below) play ``load-step`` side by side, which takes about ten minutes;
they are brought up and taken down here.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from benchmarks._rows import Row
from labkit import Lab, cluster
from labkit.analysis.alignment import Recording, align
from labkit.cluster import LabConfig
from labkit.lab.evaluations import evaluations
from labkit.names import SCRAPE_INTERVAL_SECONDS
from labkit.scoring import Form, get

TITLE = "Largest difference of weighted_average between tempos in lab time, after the best shift of up to 15 s"
ONLY_WHEN_NAMED = True
ADDRESSES: Final[Mapping[int, str]] = {1: "127.0.0.81", 5: "127.0.0.82", 15: "127.0.0.83"}
SCENARIO: Final = "load-step"
ALGORITHM: Final = "weighted_average"
FORMS: Final[tuple[Form, ...]] = ("score", "avg1m")
STEPS: Final = {"CPU": "node-1", "CPU across 70 %": "node-2", "memory": "node-3"}
GOAL: Final = 0.02
PHASES: Final = ("scrape_phase_seconds", "rule_lag_seconds")


@dataclass(frozen=True)
class Played:
    """What the Prometheus of one lab recorded of the scenario, and when within an interval it looks.

    Parameters
    ----------
    recordings : mapping
        The scores, by form.
    timing : mapping of str to float
        ``Run.timing``.
    """

    recordings: Mapping[Form, Recording]
    timing: Mapping[str, float]


def lab_name(tempo: int) -> str:
    """Return the name of the lab of a tempo."""
    return f"tempo{tempo}"


def measure() -> list[Row]:
    """Compare each pair of tempos, each form, each kind of step."""
    with ThreadPoolExecutor(len(ADDRESSES)) as pool:
        played = dict(zip(ADDRESSES, pool.map(play, ADDRESSES), strict=True))
    rows = []
    for first, second in itertools.combinations(ADDRESSES, 2):
        for form in FORMS:
            ours, theirs = played[first].recordings[form], played[second].recordings[form]
            for step, node in STEPS.items():
                found = align(ours.only(node), theirs.only(node), within_seconds=SCRAPE_INTERVAL_SECONDS)
                what = f"tempo {first} and {second}, :{form}, step of {step}, shift {found.shift_seconds:+.1f} s"
                rows.append(Row(what, (found.difference,), unit="", goal=GOAL))
    for tempo, each in played.items():
        for phase in PHASES:
            rows.append(Row(f"tempo {tempo}, {phase}", (each.timing[phase],), unit="lab s"))
    return rows


def play(tempo: int) -> Played:
    """Bring up a lab, play the scenario, take the lab down."""
    name = lab_name(tempo)
    cluster.up(LabConfig(name=name, address=ADDRESSES[tempo], tempo=tempo))
    try:
        with Lab(name=name) as lab:
            lab.apply(SCENARIO)
            lab.use("none")
            run = lab.run()
            recordings = {form: evaluations(lab, get(ALGORITHM).records[form]) for form in FORMS}
            return Played(recordings, run.timing)
    finally:
        cluster.down(name)
