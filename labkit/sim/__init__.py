"""The twin: the same loop in virtual time.

Scenario, rules, policy and physics are those of the live backends: loads from :mod:`labkit.load`, copies from
:mod:`labkit.migration`, scores from the rule files through :mod:`labkit.promql`, decisions from
:mod:`labkit.descheduling`, places from :mod:`labkit.placement`. What is added here is time. One entry::

    run(scenario, *, algorithm, seed, policy, duration_seconds, tempo=1, timing=None) -> SimResult

A run depends on its arguments and on nothing else: same scenario, seed and versions give identical tables.
"""

from __future__ import annotations

from labkit.sim.result import SimResult
from labkit.sim.settings import Policy, Timing, parse_policy, parse_timing
from labkit.sim.twin import BASELINES, run

__all__ = ["BASELINES", "Policy", "SimResult", "Timing", "parse_policy", "parse_timing", "run"]
