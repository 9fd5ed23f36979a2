"""Switch the algorithm of a running descheduler: check, change, restart, wait for a cycle; undo what does not work.

The descheduler reads its policy once, and a query that gives one bad sample makes every cycle end with nothing done.
So a query is tried before anything is changed, and a switch counts only when the new descheduler has finished a
cycle with it. Whatever goes wrong, the policy that worked before is put back.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from labkit import scoring
from labkit.clock import WALL_CLOCK, wait_until
from labkit.cluster import own
from labkit.descheduling import parse_thresholds
from labkit.errors import (
    InputError,
    KubeError,
    LabError,
    NoAnswerError,
    NoSamplesError,
    NotReadyError,
    PrometheusError,
)
from labkit.kube import CONFIG_MAPS, DEPLOYMENTS, NODES, PODS, Kube
from labkit.names import APP_LABEL, DESCHEDULER_NAMESPACE, POLICY_CONFIG_MAP
from labkit.policy import Policy, read_policy
from labkit.prometheus import Prometheus

logger = logging.getLogger(__name__)

DEPLOYMENT: Final = "descheduler"
POLICY_KEY: Final = "policy.yaml"
QUERY_PREFIX: Final = "query:"
"""Before a PromQL expression of one's own, as in the production operator's profile."""
RESTARTED_ANNOTATION: Final = "kubectl.kubernetes.io/restartedAt"
"""What ``kubectl rollout restart`` sets; here with fractions of a second, so that each restart is another."""

CYCLE_END: Final = '"Number of evictions/requests"'
CYCLE_FAILURES: Final = (
    "extension point failed with error",
    "Skipping descheduling cycle",
    "unable to initialize a plugin",
    '"skipping plugin"',
)
"""Words of the descheduler's log, release 0.36, that tell a cycle did nothing."""
HOPELESS_RESTARTS: Final = 2


@dataclass(frozen=True)
class Switch:
    """A switch that worked.

    Parameters
    ----------
    algorithm : str
        Name of the algorithm, or the query for a query of one's own.
    policy : Policy
        The policy in force.
    pod : str
        The descheduler's pod.
    seconds : float
        Wall seconds from the change to the end of its first good cycle.
    """

    algorithm: str
    policy: Policy
    pod: str
    seconds: float


def switch_algorithm(
    kube: Kube,
    prometheus: Prometheus,
    name: str,
    *,
    thresholds: str | None = None,
    evictions_per_node: int | None = None,
    evictions_total: int | None = None,
    timeout_seconds: float = 120.0,
    scores_timeout_seconds: float = 0.0,
) -> Switch:
    """Let the descheduler go by another algorithm.

    Parameters
    ----------
    kube, prometheus : Kube, Prometheus
        The lab's.
    name : str
        An algorithm, one of its records, or ``query:`` and PromQL of one's own.
    thresholds : str, optional
        ``LOW:HIGH`` or a preset's name; as they are without it.
    evictions_per_node, evictions_total : int, optional
        Limits per cycle; as they are without them.
    timeout_seconds : float
        How long the new descheduler may take to finish a cycle.
    scores_timeout_seconds : float
        How long to wait for the query's samples; on a lab that has just come up they need a minute of lab time.

    Returns
    -------
    Switch
        What is in force now.

    Raises
    ------
    InputError
        If the name or the thresholds mean nothing, or the policy in the cluster cannot be read.
    NoSamplesError, QueryError
        If the query does not give one sample per node within [0, 1]. Nothing was changed.
    NotReadyError
        If the new descheduler finished no cycle in time. The policy is what it was.
    """
    query = query_of(name)
    limits = parse_thresholds(thresholds) if thresholds is not None else None
    config_map = kube.get(CONFIG_MAPS, POLICY_CONFIG_MAP, DESCHEDULER_NAMESPACE)
    before = _policy_of(config_map)
    after = before.with_query(query).with_limits(per_node=evictions_per_node, total=evictions_total)
    if limits is not None:
        after = after.with_thresholds(limits.low, limits.high)
    if not name.startswith(QUERY_PREFIX) and own.bring(kube, scoring.get(name)):
        scores_timeout_seconds = max(scores_timeout_seconds, own.SCORES_TIMEOUT_SECONDS)
    _wait_for_scores(kube, prometheus, after, scores_timeout_seconds)
    replicas = kube.get(DEPLOYMENTS, DEPLOYMENT, DESCHEDULER_NAMESPACE)["spec"].get("replicas", 1)
    started = WALL_CLOCK.monotonic()
    try:
        kube.patch(
            CONFIG_MAPS,
            POLICY_CONFIG_MAP,
            {
                "metadata": {"resourceVersion": config_map["metadata"]["resourceVersion"]},
                "data": {POLICY_KEY: after.text},
            },
            DESCHEDULER_NAMESPACE,
        )
        pod = _restart_and_wait(kube, timeout_seconds)
    except NotReadyError as error:
        raise NotReadyError(f"{error}; {_put_back(kube, before, after, replicas)}") from error
    except BaseException:
        _put_back(kube, before, after, replicas)
        raise
    return Switch(name, after, pod, WALL_CLOCK.monotonic() - started)


def query_of(name: str) -> str:
    """Return the query that a name stands for: an algorithm's record, that very record, or PromQL after ``query:``.

    Raises
    ------
    InputError
        If there is no such algorithm.
    """
    if name.startswith(QUERY_PREFIX):
        return name.removeprefix(QUERY_PREFIX).strip()
    algorithm = scoring.get(name)
    return name if name in algorithm.records.values() else algorithm.record


def algorithm_in_force(kube: Kube) -> str:
    """Return what the descheduler goes by, as :func:`switch_algorithm` takes it; ``none`` where it is stopped."""
    deployment = kube.get(DEPLOYMENTS, DEPLOYMENT, DESCHEDULER_NAMESPACE)
    if deployment["spec"].get("replicas", 1) == 0:
        return "none"
    query = _policy_of(kube.get(CONFIG_MAPS, POLICY_CONFIG_MAP, DESCHEDULER_NAMESPACE)).query
    known = (scoring.get(name) for name in scoring.names())
    return next((each.name for each in known if query == each.record), f"{QUERY_PREFIX}{query}")


def check_scores(kube: Kube, prometheus: Prometheus, policy: Policy) -> dict[str, float]:
    """Return the policy's query's value for each node that takes part, as the descheduler would read it now.

    Raises
    ------
    NoSamplesError
        If there is no sample at all, or none for some node.
    QueryError
        If Prometheus refuses the query, or a sample has no or an ambiguous node.
    PrometheusError
        If a value lies outside [0, 1] or is NaN.
    """
    nodes = kube.list(NODES, label_selector=policy.node_selector)["items"]
    ready = [node["metadata"]["name"] for node in nodes if _is_ready(node)]
    if len(ready) < 2:
        raise NoSamplesError(
            f"wanted two or more Ready nodes with {policy.node_selector or 'any labels'}, found {len(ready)}: "
            "the descheduler skips its cycles until there are",
            query=policy.query,
        )
    values = prometheus.by_node(policy.query)
    missing = sorted(set(ready) - set(values))
    if missing:
        raise NoSamplesError(
            f"wanted a sample for each of {len(ready)} nodes from {policy.query!r}, found none for "
            f"{_some(missing)}; the descheduler would end each cycle there",
            query=policy.query,
        )
    for node in ready:
        if not 0.0 <= values[node] <= 1.0:
            kind = "NaN" if math.isnan(values[node]) else f"{values[node]:g}"
            raise PrometheusError(
                f"wanted values within [0, 1] from {policy.query!r}, found {kind} for {node}; the descheduler would "
                "refuse them: clamp the record"
            )
    return {node: values[node] for node in ready}


def stop_descheduling(kube: Kube, *, timeout_seconds: float = 60.0) -> None:
    """Stop the descheduler until the next :func:`switch_algorithm`, and wait until it is gone."""
    kube.patch(DEPLOYMENTS, DEPLOYMENT, {"spec": {"replicas": 0}}, DESCHEDULER_NAMESPACE)
    wait_until(
        lambda: not _pods(kube),
        timeout_seconds=timeout_seconds,
        what="the descheduler to end",
        found=lambda: f"pods {', '.join(pod['metadata']['name'] for pod in _pods(kube))}",
    )


def cycle_fault(log: str) -> str | None:
    """Return how the last finished cycle of a descheduler's log went.

    Returns
    -------
    str or None
        ``""`` if it did its work, the log line that says why not if it did not, None if none has finished.
    """
    lines = log.splitlines()
    ends = [number for number, line in enumerate(lines) if CYCLE_END in line]
    if not ends:
        return None
    begin = ends[-2] + 1 if len(ends) > 1 else 0
    return next((line for line in lines[begin : ends[-1]] if any(words in line for words in CYCLE_FAILURES)), "")


# --- steps ------------------------------------------------------------------------------------------


def _policy_of(config_map: dict[str, Any]) -> Policy:
    text = (config_map.get("data") or {}).get(POLICY_KEY)
    repair = "apply a good one first, for example with 'kubectl apply -f k8s/descheduler-policy.yaml'"
    if text is None:
        raise InputError(f"wanted {POLICY_KEY} in ConfigMap {POLICY_CONFIG_MAP}, found none: {repair}")
    try:
        return read_policy(text)
    except InputError as error:
        raise InputError(f"ConfigMap {POLICY_CONFIG_MAP}: {error}; {repair}") from error


def _wait_for_scores(kube: Kube, prometheus: Prometheus, policy: Policy, timeout_seconds: float) -> None:
    last: list[LabError] = []

    def are_there() -> bool:
        try:
            check_scores(kube, prometheus, policy)
        except (NoSamplesError, NoAnswerError) as error:  # it may have been restarted this moment
            last[:] = [error]
            return False
        return True

    try:
        wait_until(are_there, timeout_seconds=timeout_seconds, what="scores", poll_seconds=0.2)
    except NotReadyError:
        raise last[0] from None


def _restart_and_wait(kube: Kube, timeout_seconds: float) -> str:
    """Restart the descheduler; return the new pod's name when it has finished a good cycle."""
    mark = _restart(kube)
    told = ["its pod is not there yet"]

    def finished() -> str | None:
        try:
            return look()
        except KubeError as error:
            if not error.may_pass:
                raise
            told[0] = str(error)
            return None

    def look() -> str | None:
        pod = next(
            (p for p in _pods(kube) if (p["metadata"].get("annotations") or {}).get(RESTARTED_ANNOTATION) == mark), None
        )
        if pod is None:
            return None
        name: str = pod["metadata"]["name"]
        told[0] = f"pod {name} is {pod.get('status', {}).get('phase', 'Pending')}"
        log = _log(kube, name)
        fault = cycle_fault(log)
        if fault == "":
            return name
        if fault:
            told[0] = f"its cycle fails: {fault}"
        elif _restarts(pod) >= HOPELESS_RESTARTS:
            words = (log or _log(kube, name, previous=True)).strip().splitlines() or ["(none)"]
            raise NotReadyError(f"the descheduler keeps ending with this policy; its last words: {words[-1]}")
        return None

    return wait_until(
        finished,
        timeout_seconds=timeout_seconds,
        what="the new descheduler to finish a cycle",
        poll_seconds=0.1,
        found=lambda: told[0],
    )


def _restart(kube: Kube, *, replicas: int = 1) -> str:
    mark = datetime.fromtimestamp(WALL_CLOCK.now(), UTC).isoformat(timespec="microseconds")
    spec = {"replicas": replicas, "template": {"metadata": {"annotations": {RESTARTED_ANNOTATION: mark}}}}
    kube.patch(DEPLOYMENTS, DEPLOYMENT, {"spec": spec}, DESCHEDULER_NAMESPACE)
    return mark


def _put_back(kube: Kube, before: Policy, after: Policy, replicas: int) -> str:
    """Undo a switch, unless somebody has changed the policy since; return what came of it."""
    try:
        config_map = kube.get(CONFIG_MAPS, POLICY_CONFIG_MAP, DESCHEDULER_NAMESPACE)
        if (config_map.get("data") or {}).get(POLICY_KEY) != after.text:
            return "the policy has been changed by somebody else since and was left alone"
        kube.patch(CONFIG_MAPS, POLICY_CONFIG_MAP, {"data": {POLICY_KEY: before.text}}, DESCHEDULER_NAMESPACE)
        _restart(kube, replicas=replicas)
    except KubeError as error:
        logger.error("the former policy could not be put back: %s", error)
        return f"the former policy could not be put back ({error}), ConfigMap {POLICY_CONFIG_MAP} has the new one"
    return f"the former policy, with {before.query}, is back"


def _pods(kube: Kube) -> list[dict[str, Any]]:
    pods: list[dict[str, Any]] = kube.list(PODS, DESCHEDULER_NAMESPACE, label_selector=f"{APP_LABEL}={DEPLOYMENT}")[
        "items"
    ]
    return pods


def _log(kube: Kube, pod: str, *, previous: bool = False) -> str:
    query = {"container": DEPLOYMENT, **({"previous": "true"} if previous else {})}
    try:
        raw = kube.raw("GET", PODS.path(DESCHEDULER_NAMESPACE, pod, "log"), query=query)
    except KubeError as error:
        logger.debug("no log of %s yet: %s", pod, error)
        return ""
    return raw.decode(errors="replace")


def _restarts(pod: dict[str, Any]) -> int:
    return sum(entry.get("restartCount", 0) for entry in pod.get("status", {}).get("containerStatuses") or ())


def _is_ready(node: dict[str, Any]) -> bool:
    conditions = node.get("status", {}).get("conditions") or ()
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
