"""What a notebook uses: a lab on any backend, and one run of it.

:class:`Lab` is the door. Behind it are the live loop (:mod:`labkit.lab.loop`) and the twin (:mod:`labkit.lab.twin`);
both take the same scenario, algorithm and policy and give the same tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol

import pandas as pd

from labkit.errors import InputError
from labkit.lab.run import Progress, Run
from labkit.scenario import Scenario, load_scenario
from labkit.scoring import get

__all__ = ["BACKENDS", "Lab", "Progress", "Run"]

BACKENDS: Final = ("local", "kind", "sim")
DEFAULT_ALGORITHM: Final = "linear_amplified_ippd_k3"
"""Production's default."""


class Backend(Protocol):
    """What :class:`Lab` needs of the live loop and of the twin."""

    @property
    def tempo(self) -> int:
        """Lab seconds per wall second."""

    def check(self) -> None:
        """Refuse what would make every run fail, as far as that is known before."""

    def up(self, *, say: Callable[[str], None]) -> None:
        """Make it ready for runs."""

    def down(self) -> None:
        """Take down what ``up`` brought up."""

    def use(self, algorithm: str, policy: Mapping[str, Any]) -> None:
        """Switch the algorithm at once, where something runs at once."""

    def algorithm(self) -> str | None:
        """Return what the running descheduler goes by, None where none could run."""

    def run(
        self,
        scenario: Scenario,
        *,
        seed: int,
        algorithm: str,
        policy: Mapping[str, Any],
        duration_seconds: float,
        progress: Callable[[Progress], None] | None,
    ) -> Run:
        """Play a scenario from its start."""

    def query(self, promql: str, time_seconds: float | None) -> pd.DataFrame:
        """Evaluate an expression at one instant of lab time."""

    def query_range(self, promql: str, start: float, end: float | None, step: float) -> pd.DataFrame:
        """Evaluate an expression over lab time."""

    def set_load(self, vm: str, cpu: float) -> None:
        """Let a VM use that share of its cores from now on."""

    def nodes(self) -> pd.DataFrame:
        """Return the nodes as they are."""

    def vms(self) -> pd.DataFrame:
        """Return the VMs as they are."""

    def migrations(self) -> pd.DataFrame:
        """Return the migrations so far."""


class Lab:
    """A lab on one of three backends, as a context manager.

    Parameters
    ----------
    backend : {"local", "kind", "sim"}
        ``local``: the real components as host processes; ``kind``: in containers; ``sim``: the twin in virtual time.
    tempo : int, optional
        Lab seconds per wall second on a live backend, 1 to 15. A running lab of another tempo is refused. Default: that
        of the running lab, else 15.
    name : str, optional
        Which live lab; default ``LABKIT_NAME``, else ``lab``.

    Notes
    -----
    ``up`` uses a lab that runs already and leaves it running at the end; one that it brought up itself it takes down.

    Examples
    --------
    >>> with Lab(backend="sim") as lab:
    ...     lab.apply("quickstart", seed=1)
    ...     lab.choose("ideal_point_positive_distance")
    ...     run = lab.run("10m")
    >>> sorted(run.tables)
    ['cycles', 'evictions', 'migrations', 'nodes', 'placement']
    """

    def __init__(self, *, backend: str = "local", tempo: int | None = None, name: str | None = None) -> None:
        self._backend: Backend
        if backend == "sim":
            from labkit.lab.twin import Twin

            self._backend = Twin(tempo=tempo or 1)
        elif backend in BACKENDS:
            from labkit.lab.loop import Loop

            self._backend = Loop(backend=backend, tempo=tempo, name=name)
        else:
            raise InputError(f"wanted a backend out of {', '.join(BACKENDS)}, found {backend!r}")
        self.backend: str = backend
        self._scenario: Scenario | None = None
        self._seed: int | None = None
        self._algorithm = DEFAULT_ALGORITHM
        self._policy: dict[str, Any] = {}

    def __enter__(self) -> Lab:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    @property
    def tempo(self) -> int:
        """Lab seconds per wall second; 1 on the twin unless told otherwise."""
        return self._backend.tempo

    def check(self) -> None:
        """Refuse a lab that runs and cannot take a run, without touching it; a lab that does not run is fine.

        Raises
        ------
        InputError
            If it has another tempo or another backend, or VMs in it that no scenario has created.
        ClusterError
            If a run is being played in it.
        """
        self._backend.check()

    def up(self, *, say: Callable[[str], None] = lambda text: None) -> Lab:
        """Bring the lab up, or find it running; ``say`` is told what is being done."""
        self._backend.up(say=say)
        return self

    def down(self) -> None:
        """Take the lab down if this object brought it up."""
        self._backend.down()

    def apply(self, scenario: str | Path | Scenario, *, seed: int | None = None) -> Scenario:
        """Choose the scenario that the next runs play: a name, a file or a value.

        Raises
        ------
        ScenarioError
            If there is no such scenario or it is wrong.
        """
        self._scenario = scenario if isinstance(scenario, Scenario) else load_scenario(str(scenario))
        self._seed = seed
        return self._scenario

    def use(self, algorithm: str, **policy: Any) -> None:
        """Choose as :meth:`choose` does; on a live lab the descheduler switches at once, without waiting for a run."""
        self.choose(algorithm, **policy)
        self._backend.use(algorithm, policy)

    def choose(self, algorithm: str, **policy: Any) -> None:
        """Choose the algorithm and the policy of the next runs, each of which starts its descheduler itself.

        Parameters
        ----------
        algorithm : str
            A name of ``labkit algorithms``; ``none`` for no descheduling; on the twin also ``random`` and ``oracle``.
        **policy
            Differences from the production policy, by the names of an experiment's ``matrix.policy``.

        Raises
        ------
        InputError
            If there is no such algorithm, or not on this backend.
        """
        if algorithm in ("random", "oracle") and self.backend != "sim":
            raise InputError(f"wanted an algorithm of the live descheduler, found {algorithm!r}: it is for backend sim")
        if algorithm not in ("none", "random", "oracle"):
            get(algorithm)
        self._algorithm, self._policy = algorithm, dict(policy)

    def run(
        self,
        duration: str | float | None = None,
        *,
        progress: Callable[[Progress], None] | None = None,
    ) -> Run:
        """Play the applied scenario from its start with the chosen algorithm.

        Parameters
        ----------
        duration : str or float, optional
            Lab time, for example ``"30m"``; the scenario's own without it.
        progress : callable, optional
            Told now and then how far the run is.

        Raises
        ------
        InputError
            If no scenario was applied.
        """
        from labkit.units import parse_duration

        if self._scenario is None:
            raise InputError("wanted a scenario before the run: call apply('quickstart') first")
        seconds = self._scenario.duration_seconds if duration is None else parse_duration(duration)
        scenario = self._scenario.with_duration(seconds)
        return self._backend.run(
            scenario,
            seed=scenario.seed if self._seed is None else self._seed,
            algorithm=self._algorithm,
            policy=self._policy,
            duration_seconds=seconds,
            progress=progress,
        )

    def algorithm(self) -> str:
        """Return what the running descheduler goes by, ``none`` if it is stopped; on the twin what comes next."""
        return self._backend.algorithm() or self._algorithm

    def query(self, promql: str, *, time_seconds: float | None = None) -> pd.DataFrame:
        """Evaluate a PromQL expression at an instant of lab time (default: now, or the end of the last run).

        Returns
        -------
        DataFrame
            One row per sample: ``time_seconds``, one column per label, ``value``.
        """
        return self._backend.query(promql, time_seconds)

    def query_range(
        self, promql: str, *, start: float = 0.0, end: float | None = None, step: float = 15.0
    ) -> pd.DataFrame:
        """Evaluate a PromQL expression over lab time, at the end until now or until the end of the last run.

        Returns
        -------
        DataFrame
            Tidy: ``time_seconds``, one column per label, ``value``.
        """
        return self._backend.query_range(promql, start, end, step)

    def set_load(self, vm: str, cpu: float) -> None:
        """Let a VM of a live lab use that share of its cores from now on, whatever its scenario says.

        Raises
        ------
        InputError
            If the share is outside [0, 1], or the lab is the twin, whose runs are over when they can be looked at.
        """
        if not 0.0 <= cpu <= 1.0:
            raise InputError(f"wanted a share of the VM's cores within [0, 1], found {cpu}")
        self._backend.set_load(vm, cpu)

    def nodes(self) -> pd.DataFrame:
        """Return one row per node: node, cpu_usage, cpu_pressure, memory_usage, memory_pressure, vms."""
        return self._backend.nodes()

    def vms(self) -> pd.DataFrame:
        """Return one row per VM: vm, node, cores, memory_bytes."""
        return self._backend.vms()

    def migrations(self) -> pd.DataFrame:
        """Return the migrations of the running or last run, in the shape of the table ``migrations``."""
        return self._backend.migrations()
