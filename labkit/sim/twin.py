"""Putting a run together from its parts, and playing it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from labkit.errors import InputError
from labkit.model import BoolArray, FloatArray
from labkit.names import SETTLE_SECONDS
from labkit.scenario import Scenario
from labkit.scoring import get
from labkit.sim.descheduler import Descheduler
from labkit.sim.engine import Engine, make_scheduler
from labkit.sim.fleet import Fleet
from labkit.sim.movement import Movement
from labkit.sim.oracle import Oracle
from labkit.sim.recorder import Recorder
from labkit.sim.result import SimResult
from labkit.sim.scores import ScoreLoop
from labkit.sim.settings import Policy, Timing, parse_policy, parse_timing

BASELINES: Final = ("none", "random", "oracle")
"""No descheduling; the same loop on scores drawn at random; a planner that knows the load to come."""
DEFAULT_ALGORITHM: Final = "linear_amplified_ippd_k3"
"""Whose scores are recorded where no algorithm of the rules decides."""


def run(
    scenario: Scenario,
    *,
    algorithm: str,
    seed: int | None = None,
    policy: Mapping[str, Any] | Policy | None = None,
    duration_seconds: float | None = None,
    tempo: int = 1,
    timing: Mapping[str, Any] | Timing | None = None,
    chance: int = 0,
) -> SimResult:
    """Play a scenario in virtual time.

    Parameters
    ----------
    scenario : Scenario
        What to play.
    algorithm : str
        Name or record of an algorithm, or a baseline: ``none``, ``random``, ``oracle``.
    seed : int, optional
        Of sizes, load, and what Kubernetes leaves to chance; the scenario's own without it. Runs with one seed and
        different algorithms have the same VMs, load and initial placement.
    policy : Mapping or Policy, optional
        What differs from the production profile.
    duration_seconds : float, optional
        Lab time; the scenario's own without it.
    tempo : int
        Lab seconds per wall second of the live run that is imitated: only timers that no tempo changes depend on it.
    timing : Mapping or Timing, optional
        What the machine adds, as a live run has measured it.
    chance : int
        Which draw of what Kubernetes leaves to chance (ties of the scheduler, order of equal pods and nodes), for the
        same VMs and load: what a repeat is on a live backend.

    Returns
    -------
    SimResult

    Raises
    ------
    InputError
        If an argument is wrong or something does not fit together.
    """
    scored_by = get(DEFAULT_ALGORITHM if algorithm in BASELINES else algorithm)
    settings, machine = parse_policy(policy), parse_timing(timing)
    duration = scenario.duration_seconds if duration_seconds is None else duration_seconds
    if not duration > 0:
        raise InputError(f"duration: wanted more than 0 s, found {duration:g}")
    if tempo < 1:
        raise InputError(f"tempo: wanted 1 or more, found {tempo}")
    if chance < 0:
        raise InputError(f"chance: wanted 0 or more, found {chance}")
    used_seed = scenario.seed if seed is None else seed
    expansion = scenario.expand(used_seed)
    fleet = Fleet(expansion, -SETTLE_SECONDS, scenario.pressure_model)
    oracle = Oracle(fleet, settings, duration) if algorithm == "oracle" else None
    movement = Movement(
        fleet,
        make_scheduler(used_seed, chance),
        settings.migration,
        scenario.link_bytes_per_second,
        machine,
        target_of=oracle.target_of if oracle is not None else None,
    )
    rng = np.random.default_rng([used_seed, 2, chance])
    descheduler = Descheduler(fleet, movement, settings, rng, tempo, machine.request_seconds)
    movement.on_pod_gone = descheduler.pod_gone
    recorder = Recorder(len(fleet.nodes), duration, settings.evaluation_interval_seconds)
    loop = ScoreLoop(scored_by, fleet.node_names, recorder.evaluation)
    answer = _random_scores(fleet, used_seed, chance) if algorithm == "random" else loop.scores
    engine = Engine(
        expansion=expansion,
        policy=settings,
        timing=machine,
        fleet=fleet,
        movement=movement,
        descheduler=descheduler,
        recorder=recorder,
        scores=loop,
        asked=lambda time: answer(time - machine.score_lag_seconds),
        descheduling=algorithm != "none",
        act=(lambda time: oracle.act(movement, descheduler, time)) if oracle is not None else None,
        duration_seconds=duration,
    )
    engine.play()
    return SimResult(
        scenario=scenario,
        algorithm=algorithm,
        scored_by=scored_by,
        seed=used_seed,
        tempo=tempo,
        policy=settings,
        timing=machine,
        duration_seconds=duration,
        _fleet=fleet,
        _recorder=recorder,
        _cycles=descheduler.cycles,
        _evictions=descheduler.evictions,
        _migrations=[*movement.rows, *movement.unfinished(duration)],
        _placements=movement.placements,
    )


def _random_scores(fleet: Fleet, seed: int, chance: int) -> Callable[[float], tuple[FloatArray, BoolArray]]:
    rng = np.random.default_rng([seed, 3, chance])
    return lambda time: (rng.random(len(fleet.nodes)), fleet.ready)
