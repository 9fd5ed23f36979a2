"""Runs on the live loop: a scenario is applied, the descheduler is let loose, and everything is written down.

The parts of a run, in its order:

1. the descheduler is stopped and what an earlier run left is removed;
2. the policy is written, the intervals and limits that differ from production's are set;
3. the SimulationScenario is created; its controller places the VMs, lets them settle and starts lab time;
4. the descheduler is started, and nothing is done but watching until the time is over;
5. the descheduler is stopped and the tables are made.

``Run.timing`` holds what this machine added, for the comparison with the twin, by the names of
:class:`labkit.sim.Timing`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import Any, Final

import pandas as pd
import yaml

from labkit import cluster
from labkit.clock import WALL_CLOCK, LabTime, wait_until, wall_seconds
from labkit.cluster import RunningLab, component
from labkit.cluster.algorithm import algorithm_in_force, stop_descheduling, switch_algorithm
from labkit.errors import ClusterError, ComponentError, InputError, KubeError, NotReadyError
from labkit.kube import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    PODS,
    SIMULATION_SCENARIOS,
    VIRTUAL_MACHINES,
    Kube,
    Object,
    Store,
)
from labkit.lab import record
from labkit.lab.run import Progress, Run
from labkit.migration import DEFAULT_POLICY
from labkit.names import (
    APP_LABEL,
    BASE_RECORDS,
    DESCHEDULER_NAMESPACE,
    DESCHEDULING_INTERVAL_KEY,
    DESCHEDULING_INTERVAL_SECONDS,
    DOMAIN_LABEL,
    EVALUATION_INTERVAL_KEY,
    EVALUATION_INTERVAL_SECONDS,
    LAB_CONFIG_MAP,
    LAUNCHER_APP,
    LOAD_ANNOTATION,
    MAX_TEMPO,
    MONITORING_NAMESPACE,
    POD_MANAGER_PORT,
    PROMETHEUS_PORT,
    SCENARIO_LABEL,
    SCRAPE_INTERVAL_SECONDS,
    VM_NAMESPACE,
)
from labkit.prometheus import Prometheus
from labkit.scenario import Scenario
from labkit.scoring import get
from labkit.settings import read_settings
from labkit.sim.outcome import outcome
from labkit.units import format_duration, parse_duration, parse_quantity

logger = logging.getLogger(__name__)

DESCHEDULER: Final = "descheduler"
SOFT_TAINTER: Final = "soft-tainter"
PROMETHEUS: Final = "prometheus"
MIGRATION_POLICY: Final = "migration-policy"
LIMITS: Final = {
    "migrations_per_cluster": ("parallelMigrationsPerCluster", DEFAULT_POLICY.parallel_per_cluster),
    "migrations_per_node": ("parallelOutboundMigrationsPerNode", DEFAULT_POLICY.parallel_outbound_per_node),
}
"""Factor of an experiment, the option of ConfigMap ``migration-policy`` that it sets, and production's value."""

CLEAR_SECONDS: Final = 120.0
PLACE_SECONDS: Final = 180.0
ROLLOUT_SECONDS: Final = 120.0
PROGRESS_SECONDS: Final = 0.5
SCORES_SECONDS: Final = 60.0

DEFAULT_ALGORITHM: Final = "linear_amplified_ippd_k3"
"""Whose scores a run without descheduling records."""
PRODUCTION_THRESHOLDS: Final = "AsymmetricLow"
PRODUCTION_EVICTIONS_PER_NODE: Final = 2
PRODUCTION_EVICTIONS_TOTAL: Final = 5


class Loop:
    """The live loop of one lab.

    Parameters
    ----------
    backend : str
        ``local`` or ``kind``.
    tempo : int, optional
        Lab seconds per wall second; that of the running lab, else 15.
    name : str, optional
        Which lab.
    """

    def __init__(self, *, backend: str, tempo: int | None = None, name: str | None = None) -> None:
        self._backend = backend
        self._tempo = tempo
        self._name = name
        self._lab: RunningLab | None = None
        self._brought_up = False
        self._ended: float | None = None
        self._seen = 0

    @property
    def tempo(self) -> int:
        """Lab seconds per wall second."""
        return self._lab.tempo if self._lab is not None else self._tempo or MAX_TEMPO

    @property
    def lab(self) -> RunningLab:
        """The lab, once it is up."""
        if self._lab is None:
            raise ClusterError("the lab is not up: call up() first, or use it in a with block")
        return self._lab

    @property
    def prometheus(self) -> Prometheus:
        """The lab's Prometheus."""
        return Prometheus(self.lab.url(PROMETHEUS_PORT))

    @property
    def _kube(self) -> Kube:
        return self.lab.kube

    def check(self) -> None:
        """Refuse a running lab of another kind, one in which a run is being played, or one with the user's own VMs."""
        found = self._found()
        if found is not None:
            with _alone(found):
                _refuse_own_vms(found.kube)

    def _found(self) -> RunningLab | None:
        """Return the lab if it runs."""
        found = cluster.running(self._name)
        if found is not None and self._tempo not in (None, found.tempo):
            raise InputError(
                f"wanted lab {found.name!r} at tempo {self._tempo}, found it at tempo {found.tempo}: "
                f"leave the tempo out, or take the lab down first with 'labkit down --name {found.name}'"
            )
        if found is not None and found.backend != self._backend:
            raise InputError(
                f"wanted lab {found.name!r} with backend {self._backend}, found it with backend {found.backend}: "
                f"take it down first with 'labkit down --name {found.name}'"
            )
        return found

    def up(self, *, say: Callable[[str], None]) -> None:
        """Find the lab running, or bring it up."""
        found = self._found()
        # A lab that runs is repaired where something died; one that does not is ours to take down again.
        wanted = cluster.wanted_config(self._name, tempo=found.tempo if found else self.tempo, backend=self._backend)
        self._brought_up = found is None
        self._lab = cluster.up(wanted, say=say)

    def down(self) -> None:
        """Take the lab down if it was brought up here; else leave it with its descheduler running."""
        if self._lab is not None and self._brought_up:
            cluster.down(self._lab.name)
        elif self._lab is not None:
            self._scale(DESCHEDULER_NAMESPACE, DESCHEDULER, 1, wait=False)
        self._lab = None

    # --- algorithm and policy ---------------------------------------------------------------------------

    def use(self, algorithm: str, policy: Mapping[str, Any]) -> None:
        """Switch the running descheduler; ``none`` stops it."""
        _refuse_what_only_the_twin_has(policy)
        if algorithm == "none":
            stop_descheduling(self._kube)
        else:
            self._switch(algorithm, policy)

    def algorithm(self) -> str:
        """Return what the running descheduler goes by."""
        return algorithm_in_force(self._kube)

    def _switch(self, algorithm: str, policy: Mapping[str, Any]) -> None:
        """Start the descheduler with an algorithm; what the policy does not say is as in production."""
        switch_algorithm(
            self._kube,
            self.prometheus,
            algorithm,
            thresholds=policy.get("thresholds", PRODUCTION_THRESHOLDS),
            evictions_per_node=policy.get("evictions_per_node", PRODUCTION_EVICTIONS_PER_NODE),
            evictions_total=policy.get("evictions_total", PRODUCTION_EVICTIONS_TOTAL),
            scores_timeout_seconds=SCORES_SECONDS,
        )

    @contextmanager
    def _factors(self, policy: Mapping[str, Any]) -> Iterator[None]:
        """Set what a policy changes beside the descheduler's own policy, and set it back afterwards."""
        _refuse_what_only_the_twin_has(policy)
        descheduling = parse_duration(policy.get("descheduling_interval", DESCHEDULING_INTERVAL_SECONDS))
        evaluation = parse_duration(policy.get("evaluation_interval", EVALUATION_INTERVAL_SECONDS))
        try:
            # All of it, also what is as in production: a run that died has left what it had set.
            self._set_factors(descheduling, evaluation, policy)
            yield
        finally:
            self._set_factors(DESCHEDULING_INTERVAL_SECONDS, EVALUATION_INTERVAL_SECONDS, {})

    def _set_factors(self, descheduling_seconds: float, evaluation_seconds: float, policy: Mapping[str, Any]) -> None:
        limits = {option: str(policy.get(factor, default)) for factor, (option, default) in LIMITS.items()}
        self._set_interval(DESCHEDULER_NAMESPACE, DESCHEDULING_INTERVAL_KEY, descheduling_seconds)
        if self._set_interval(MONITORING_NAMESPACE, EVALUATION_INTERVAL_KEY, evaluation_seconds):
            self._restart(MONITORING_NAMESPACE, PROMETHEUS)
        self._patch_config(MONITORING_NAMESPACE, MIGRATION_POLICY, limits)
        self._scale(MONITORING_NAMESPACE, SOFT_TAINTER, 1 if policy.get("soft_taints") else 0)

    def _set_interval(self, namespace: str, key: str, lab_seconds: float) -> bool:
        """Write an interval in wall time; return whether it was another one before."""
        wanted = format_duration(wall_seconds(lab_seconds, self.tempo))
        data = self._kube.get(CONFIG_MAPS, LAB_CONFIG_MAP, namespace)["data"]
        if data.get(key) == wanted:
            return False
        self._patch_config(namespace, LAB_CONFIG_MAP, {key: wanted})
        return True

    def _patch_config(self, namespace: str, name: str, data: Mapping[str, str | None]) -> None:
        self._kube.patch(CONFIG_MAPS, name, {"data": dict(data)}, namespace)

    # --- a run ------------------------------------------------------------------------------------------

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
        """Play a scenario from its start; see the module's text."""
        with _alone(self.lab):
            return self._run(scenario, seed, algorithm, policy, duration_seconds, progress)

    def _run(
        self,
        scenario: Scenario,
        seed: int,
        algorithm: str,
        policy: Mapping[str, Any],
        duration_seconds: float,
        progress: Callable[[Progress], None] | None,
    ) -> Run:
        began = WALL_CLOCK.monotonic()
        tell = progress or (lambda _: None)
        self._ended, self._seen = None, 0
        _refuse_own_vms(self._kube)
        stop_descheduling(self._kube)
        tell(Progress(-1.0, duration_seconds, 0, "placing", "removing what an earlier run left"))
        self._clear()
        query = get(DEFAULT_ALGORITHM if algorithm == "none" else algorithm).record
        witness = _Witness(self._kube)
        log: list[str] = []
        with self._factors(policy), witness:
            try:
                self._place(scenario, seed, duration_seconds, tell)
                time = self._time()
                if algorithm != "none":
                    self._switch(algorithm, policy)
                self._watch(time, duration_seconds, tell)
                tell(Progress(duration_seconds, duration_seconds, self._migrations_since(time), "collecting"))
                log = self._descheduler_log()
            finally:
                stop_descheduling(self._kube)
            tables = self._tables(query, log, witness, time, duration_seconds)
        self._ended = duration_seconds
        return Run(
            backend=self._backend,
            scenario=scenario.name,
            algorithm=algorithm,
            seed=seed,
            tempo=self.tempo,
            policy=dict(policy),
            duration_seconds=duration_seconds,
            tables=tables,
            wall_seconds=WALL_CLOCK.monotonic() - began,
            timing={**record.timing(tables["cycles"], tables["migrations"]), **self._phases()},
            outcome=outcome(scenario, seed, tables, duration_seconds),
            notes=()
            if algorithm == "none"
            else record.notes(
                tables["cycles"],
                interval_seconds=parse_duration(policy.get("descheduling_interval", DESCHEDULING_INTERVAL_SECONDS)),
                duration_seconds=duration_seconds,
            ),
        )

    def _clear(self) -> None:
        """Remove scenarios and VMs of earlier runs, and wait until their pods are gone."""
        for scenario in self._kube.list(SIMULATION_SCENARIOS, VM_NAMESPACE)["items"]:
            self._kube.delete(SIMULATION_SCENARIOS, scenario["metadata"]["name"], VM_NAMESPACE)
        self._kube.raw("DELETE", VIRTUAL_MACHINES.path(VM_NAMESPACE))
        wait_until(
            lambda: not self._launchers(),
            timeout_seconds=CLEAR_SECONDS,
            what="the launcher pods of the run before to be gone",
            found=lambda: f"{len(self._launchers())} pods",
        )

    def _launchers(self) -> list[Object]:
        items: list[Object] = self._kube.list(PODS, VM_NAMESPACE, label_selector=f"{APP_LABEL}={LAUNCHER_APP}")["items"]
        return items

    def _place(self, scenario: Scenario, seed: int, duration_seconds: float, tell: Callable[[Progress], None]) -> None:
        """Create the scenario and wait until its controller has started it."""
        document: Object = yaml.safe_load(yaml.safe_dump(dict(scenario.document)))
        document["metadata"] = {"name": scenario.name, "namespace": VM_NAMESPACE}
        document["spec"]["seed"] = seed
        self._kube.create(SIMULATION_SCENARIOS, document, VM_NAMESPACE)

        message = ""

        def started() -> bool:
            nonlocal message
            status = self._kube.get(SIMULATION_SCENARIOS, scenario.name, VM_NAMESPACE).get("status", {})
            phase, message = status.get("phase", "Pending"), str(status.get("message", ""))
            if phase == "Failed":
                raise InputError(f"scenario {scenario.name}: {message or 'failed'}")
            tell(Progress(-1.0, duration_seconds, 0, "placing", message))
            return bool(phase == "Running")

        wait_until(
            started, timeout_seconds=PLACE_SECONDS, what=f"scenario {scenario.name} to start", poll_seconds=0.2,
            found=lambda: message or "nothing yet",
        )  # fmt: skip

    def _time(self) -> LabTime:
        return read_settings(self._kube.get(CONFIG_MAPS, LAB_CONFIG_MAP, MONITORING_NAMESPACE)["data"]).time

    def _watch(self, time: LabTime, duration_seconds: float, tell: Callable[[Progress], None]) -> None:
        """Let the loop run until the lab time is reached."""

        def over() -> bool:
            now = time.at(WALL_CLOCK.now())
            tell(Progress(min(now, duration_seconds), duration_seconds, self._migrations_since(time), "running"))
            return now >= duration_seconds

        wait_until(
            over,
            timeout_seconds=duration_seconds / self.tempo + 60.0,
            what=f"lab time {duration_seconds:g} s",
            poll_seconds=PROGRESS_SECONDS,
        )

    def _migrations_since(self, time: LabTime) -> int:
        """Return what progress shows; a pod manager that is just being restarted does not end a run."""
        try:
            records = self._migration_records(retries=0)
        except ComponentError as error:
            logger.info("%s", error)
        else:
            self._seen = sum(
                entry.get("outcome") == "succeeded" and time.at(entry["requested"]) >= 0 for entry in records
            )
        return self._seen

    def _migration_records(self, *, retries: int = 10) -> list[dict[str, Any]]:
        import urllib3

        url = f"{self.lab.url(POD_MANAGER_PORT)}/migrations"
        patience = urllib3.Retry(retries, backoff_factor=0.1, backoff_max=2.0, status_forcelist=(503,))
        try:
            answer = urllib3.request("GET", url, timeout=10.0, retries=patience)
            entries: list[dict[str, Any]] = answer.json()["migrations"]
        except (urllib3.exceptions.HTTPError, ValueError, KeyError) as exc:
            raise ComponentError(f"wanted the migrations from {url}, found: {exc}", component="pod-manager") from exc
        return entries

    def _descheduler_log(self) -> list[str]:
        """Return the log of the running descheduler, of its earlier containers too."""
        lines: list[str] = []
        for pod in self._pods_of(DESCHEDULER_NAMESPACE, DESCHEDULER):
            path = PODS.path(DESCHEDULER_NAMESPACE, pod["metadata"]["name"], "log")
            for previous in ("true", "false"):
                try:
                    text = self._kube.raw("GET", path, query={"timestamps": "true", "previous": previous})
                except KubeError as error:
                    if previous == "true":
                        continue
                    raise ComponentError(
                        f"wanted the descheduler's log, found: {error}", component=DESCHEDULER
                    ) from error
                lines += text.decode(errors="replace").splitlines()
        return lines

    def _tables(
        self, query: str, log: list[str], witness: _Witness, time: LabTime, duration_seconds: float
    ) -> dict[str, pd.DataFrame]:
        expressions = {**BASE_RECORDS, "score": query, "vms": "max by (instance) (node_vm_count)"}
        frames = {
            name: self._range(expression, time, 0.0, duration_seconds, SCRAPE_INTERVAL_SECONDS)
            for name, expression in expressions.items()
        }
        cycles = record.descheduling_cycles(log, time)
        evictions = record.evictions(log, witness.pods, time)
        return {
            "nodes": record.node_table(frames, time),
            "cycles": cycles[cycles["time_seconds"].between(0.0, duration_seconds)].reset_index(drop=True),
            "evictions": evictions[evictions["time_seconds"].between(0.0, duration_seconds)].reset_index(drop=True),
            "migrations": record.migrations(self._migration_records(), time, end_seconds=duration_seconds),
            "placement": record.placement_table(witness.placements, time, end_seconds=duration_seconds),
        }

    def _range(self, promql: str, time: LabTime, start: float, end: float, step: float) -> pd.DataFrame:
        """Ask at whole steps of lab time; where the tempo does not divide them, at the nearest milliseconds."""
        pause, first = wall_seconds(step, time.tempo), time.wall(start)
        last = first + pause * math.floor((end - start) / step + 1e-9)
        frame = self.prometheus.query_range(promql, first, last, pause)
        steps = ((frame["time"] - first) / pause).round()
        return frame.assign(time=[time.wall(start + step * number) for number in steps])

    def _phases(self) -> dict[str, float]:
        """Measure when Prometheus scrapes and evaluates, within the scrape interval."""
        time, phases = self._time(), {}
        scraped = self.prometheus.query("min(timestamp(node_cpu_usage_ratio))")
        if scraped:
            phases["scrape_phase_seconds"] = time.at(scraped[0].value) % SCRAPE_INTERVAL_SECONDS
        lag = self.prometheus.query(
            "max(timestamp(descheduler:node:cpu_usage:ratio) - on (instance) timestamp(node_cpu_usage_ratio))"
        )
        if lag:
            phases["rule_lag_seconds"] = lag[0].value * self.tempo % SCRAPE_INTERVAL_SECONDS
        return phases

    # --- queries ----------------------------------------------------------------------------------------

    def query(self, promql: str, time_seconds: float | None) -> pd.DataFrame:
        """Evaluate an expression at one instant of lab time."""
        time = self._time()
        samples = self.prometheus.query(promql, None if time_seconds is None else time.wall(time_seconds))
        rows = [{"time_seconds": time.at(s.time), **s.labels, "value": s.value} for s in samples]
        return pd.DataFrame(rows, columns=None if rows else ["time_seconds", "value"])

    def query_range(self, promql: str, start: float, end: float | None, step: float) -> pd.DataFrame:
        """Evaluate an expression over lab time."""
        time = self._time()
        last = end if end is not None else self._ended if self._ended is not None else time.at(WALL_CLOCK.now())
        frame = self._range(promql, time, start, last, step)
        frame.insert(0, "time_seconds", frame.pop("time").map(time.at).round(3))
        return frame

    def nodes(self) -> pd.DataFrame:
        """Return the nodes with their last complete sample."""
        frames = {name: self.prometheus.by_node(expression) for name, expression in BASE_RECORDS.items()}
        table = pd.DataFrame(frames).rename_axis("node").sort_index().reset_index()
        counts = self.prometheus.by_node("max by (instance) (node_vm_count)")
        return table.assign(vms=table["node"].map(counts).fillna(0).astype("int64"))

    def vms(self) -> pd.DataFrame:
        """Return the VMs with the node they run on."""
        rows = [
            {
                "vm": vm["metadata"]["name"],
                "node": vm.get("status", {}).get("nodeName", ""),
                "cores": parse_quantity(vm["spec"]["resources"]["cpu"]),
                "memory_bytes": parse_quantity(vm["spec"]["resources"]["memory"]),
            }
            for vm in self._kube.list(VIRTUAL_MACHINES, VM_NAMESPACE)["items"]
        ]
        return pd.DataFrame(rows, columns=["vm", "node", "cores", "memory_bytes"])

    def set_load(self, vm: str, cpu: float) -> None:
        """Take a VM's curve away and give it a constant demand."""
        change = {"metadata": {"annotations": {LOAD_ANNOTATION: None}}, "spec": {"utilization": {"cpu": f"{cpu:g}"}}}
        self._kube.patch(VIRTUAL_MACHINES, vm, change, VM_NAMESPACE)

    def migrations(self) -> pd.DataFrame:
        """Return the migrations since lab time 0."""
        time = self._time()
        now = self._ended if self._ended is not None else time.at(WALL_CLOCK.now())
        return record.migrations(self._migration_records(), time, end_seconds=now)

    # --- deployments ------------------------------------------------------------------------------------

    def _pods_of(self, namespace: str, app: str) -> list[Object]:
        pods: list[Object] = self._kube.list(PODS, namespace, label_selector=f"{APP_LABEL}={app}")["items"]
        return pods

    def _scale(self, namespace: str, name: str, replicas: int, *, wait: bool = True) -> None:
        self._kube.patch(DEPLOYMENTS, name, {"spec": {"replicas": replicas}}, namespace)
        if wait:
            self._wait_rolled_out(namespace, name)

    def _restart(self, namespace: str, name: str) -> None:
        stamp = {"kubectl.kubernetes.io/restartedAt": pd.Timestamp.now(tz="UTC").isoformat()}
        patch = {"spec": {"template": {"metadata": {"annotations": stamp}}}}
        self._kube.patch(DEPLOYMENTS, name, patch, namespace)
        self._wait_rolled_out(namespace, name)

    def _wait_rolled_out(self, namespace: str, name: str) -> None:
        def done() -> bool:
            deployment = self._kube.get(DEPLOYMENTS, name, namespace)
            status, wanted = deployment.get("status", {}), deployment["spec"]["replicas"]
            return bool(
                status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
                and status.get("updatedReplicas", 0) == status.get("replicas", 0) == wanted
                and status.get("readyReplicas", 0) == wanted
                and len(self._pods_of(namespace, name)) == wanted
            )

        try:
            wait_until(done, timeout_seconds=ROLLOUT_SECONDS, what=f"deployment {namespace}/{name}")
        except NotReadyError as error:
            raise ComponentError(
                f"{error}: look at 'kubectl describe pods -n {namespace} -l app={name}'", component=name
            ) from error


@contextmanager
def _alone(lab: RunningLab) -> Iterator[None]:
    """Let one run at a time be played in a lab: each begins with removing what another has placed."""
    lock = component.Lock(lab.folder.run_lock)
    if not lock.acquire():
        raise ClusterError(
            f"wanted lab {lab.name!r} for a run, found another being played in it: wait for its end, or play in "
            "another lab with --name"
        )
    try:
        yield
    finally:
        lock.release()


def _refuse_own_vms(kube: Kube) -> None:
    """Refuse to play among VMs that no scenario has created: a run begins with removing all."""
    names = [
        vm["metadata"]["name"]
        for vm in kube.list(VIRTUAL_MACHINES, VM_NAMESPACE)["items"]
        if SCENARIO_LABEL not in (vm["metadata"].get("labels") or {})
    ]
    if names:
        shown = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
        raise InputError(
            f"wanted a lab without VMs of your own, found {len(names)} in namespace {VM_NAMESPACE} ({shown}): a run "
            f"would remove them; 'kubectl delete vm --all -n {VM_NAMESPACE}' does, or play in another lab with --name"
        )


def _refuse_what_only_the_twin_has(policy: Mapping[str, Any]) -> None:
    if "migration_cooldown" in policy:
        raise InputError("wanted a policy of the live loop, found migration_cooldown: it exists on backend sim only")


class _Witness:
    """Sees every pod and every change of place of a run; a context manager."""

    def __init__(self, kube: Kube) -> None:
        self.pods: dict[str, tuple[str, str]] = {}
        """VM and node of each launcher pod that was seen, by ``namespace/name``."""
        self.placements: list[tuple[float, str, str]] = []
        """Wall time, VM and node of each change; '' when the VM runs nowhere."""
        self._lock = Lock()
        self._stores = (
            Store(kube, PODS, namespace=VM_NAMESPACE, label_selector=f"{APP_LABEL}={LAUNCHER_APP}"),
            Store(kube, VIRTUAL_MACHINES, namespace=VM_NAMESPACE),
        )
        self._stores[0].subscribe(self._pod_changed)
        self._stores[1].subscribe(self._vm_changed)

    def __enter__(self) -> _Witness:
        for store in self._stores:
            store.start()
        for store in self._stores:
            store.wait_synced()
        return self

    def __exit__(self, *_: object) -> None:
        for store in self._stores:
            store.stop()

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        if new is not None and new["spec"].get("nodeName"):
            metadata = new["metadata"]
            place = (metadata["labels"].get(DOMAIN_LABEL, ""), new["spec"]["nodeName"])
            self.pods[f"{metadata['namespace']}/{metadata['name']}"] = place

    def _vm_changed(self, old: Object | None, new: Object | None) -> None:
        before = (old or {}).get("status", {}).get("nodeName", "")
        after = (new or {}).get("status", {}).get("nodeName", "")
        if before != after:
            name = (new or old or {})["metadata"]["name"]
            with self._lock:
                self.placements.append((WALL_CLOCK.now(), name, after))
