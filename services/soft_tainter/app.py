"""One look per descheduling interval: query, classify, patch what differs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from labkit.descheduling import Thresholds
from labkit.errors import InputError, KubeError, PrometheusError
from labkit.kube import NODES, Kube, Store
from labkit.names import DESCHEDULER_NAMESPACE, POLICY_CONFIG_MAP
from labkit.policy import read_policy
from labkit.prometheus import Prometheus
from labkit.service import HEALTH, METRICS, health, metrics, site
from services.soft_tainter.logic import classification_of, selected, taint_patch, wanted_taints

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

logger = logging.getLogger(__name__)

CONFLICT: Final = 409
NOT_FOUND: Final = 404


class SoftTainter:
    """Keeps the nodes' soft taints in line with the descheduler's classification.

    Parameters
    ----------
    kube : Kube
        The API server.
    prometheus : Prometheus
        Where the scores are.
    nodes, policies : Store
        Mirrors of the simulated nodes and of the descheduler's policy.
    """

    def __init__(self, kube: Kube, prometheus: Prometheus, *, nodes: Store, policies: Store) -> None:
        self._kube = kube
        self._prometheus = prometheus
        self._nodes = nodes
        self._policies = policies
        self.registry = CollectorRegistry()
        self._patches = Counter(
            "lab_soft_taint_changes", "Nodes whose soft taints were changed.", registry=self.registry
        )
        self._failures = Counter("lab_soft_taint_failures", "Looks that could not be finished.", registry=self.registry)
        self._tainted = Gauge("lab_soft_tainted_nodes", "Nodes with a soft taint.", registry=self.registry)

    def look(self) -> bool:
        """Bring the taints in line; tell whether that was possible. Without scores nothing is changed."""
        try:
            policy = read_policy(self._policy_text())
            if not policy.deviation:
                raise InputError("policy: wanted useDeviationThresholds, found static thresholds")
            nodes = selected(self._nodes.items(), policy.node_selector)
            scores = self._prometheus.by_node(policy.query)
            wanted = wanted_taints(classification_of(nodes, scores, Thresholds(policy.low, policy.high)))
        except (InputError, PrometheusError) as error:
            logger.warning("taints stay as they are: %s", error)
            self._failures.inc()
            return False
        for node, keys in zip(nodes, wanted, strict=True):
            self._patch(node["metadata"]["name"], taint_patch(node, keys))
        self._tainted.set(sum(1 for keys in wanted if keys))
        return True

    def clear(self) -> None:
        """Take all our taints off, as production does when the profile goes away."""
        for node in self._nodes.items():
            self._patch(node["metadata"]["name"], taint_patch(node, ()))

    def _policy_text(self) -> str:
        config_map = self._policies.get(DESCHEDULER_NAMESPACE, POLICY_CONFIG_MAP)
        text = ((config_map or {}).get("data") or {}).get("policy.yaml")
        if text is None:
            raise InputError(f"wanted policy.yaml in ConfigMap {DESCHEDULER_NAMESPACE}/{POLICY_CONFIG_MAP}, found none")
        return str(text)

    def _patch(self, name: str, patch: dict[str, object] | None) -> None:
        if patch is None:
            return
        try:
            self._kube.patch(NODES, name, patch)
            self._patches.inc()
        except KubeError as error:
            # Somebody else changed the node just now, or it is gone: the next look sees how it is.
            if error.status not in (CONFLICT, NOT_FOUND):
                raise


def create_app(tainter: SoftTainter, alive: Callable[[], bool]) -> WSGIApplication:
    """Return the HTTP pages: ``/healthz`` and ``/metrics``."""
    return site({HEALTH: health(alive), METRICS: metrics(tainter.registry)})
