"""Answering the API server: read pod and VM, mark the VM, keep a record.

Both are read from the API server itself, not from a mirror: an answer may kill a VM. That is two reads and one write
for each eviction, and none without one.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from labkit.clock import WALL_CLOCK, Clock
from labkit.errors import InputError, KubeError
from labkit.kube import PODS, VIRTUAL_MACHINES, Kube, Object
from labkit.names import EVICTION_SOURCE_ANNOTATION
from labkit.virtualmachine import VirtualMachine, format_time
from services.eviction_webhook.logic import (
    ALLOWED,
    Review,
    Verdict,
    domain_of,
    judge,
    marked,
    response,
    unmarkable,
    unreadable,
)

logger = logging.getLogger(__name__)

CONFLICT: Final = 409
ATTEMPTS: Final = 5
"""Reads of a VM that others write at the same moment, before marking it counts as failed."""
RECORDED: Final = 20_000


class Interceptor:
    """Answers evictions.

    Parameters
    ----------
    kube : Kube
        The API server.
    clock : Clock
        Wall clock.
    """

    def __init__(self, kube: Kube, *, clock: Clock = WALL_CLOCK) -> None:
        self._kube = kube
        self._clock = clock
        self._lock = threading.Lock()
        self._record: deque[dict[str, Any]] = deque(maxlen=RECORDED)
        self._count = 0
        self.registry = CollectorRegistry()
        self._evictions = Counter("lab_evictions", "Evictions answered, by result.", ["result"], registry=self.registry)
        self._seconds = Histogram(
            "lab_eviction_answer_seconds",
            "Time to answer an eviction.",
            buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
            registry=self.registry,
        )

    def review(self, body: Any) -> Object:
        """Answer one AdmissionReview.

        Raises
        ------
        InputError
            If the body is no review of an eviction; the API server then refuses, as the webhook failed.
        """
        review = Review.read(body)
        with self._seconds.time():
            verdict, pod, vm_name = self._decide(review)
        self._evictions.labels(verdict.result).inc()
        self._note(review, verdict, pod, vm_name)
        logger.info("eviction of %s/%s by %s: %s", review.namespace, review.pod, review.user, verdict)
        return response(review.uid, verdict)

    def entries(self) -> list[dict[str, Any]]:
        """Return the record of answers, the oldest first; ``id`` counts from 1 since this process started."""
        with self._lock:
            return list(self._record)

    def metrics(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _decide(self, review: Review) -> tuple[Verdict, Mapping[str, Any] | None, str | None]:
        pod: Object | None = None
        domain: str | None = None
        try:
            pod = self._kube.find(PODS, review.pod, review.namespace)
            domain = domain_of(pod)
            if pod is None or domain is None:
                return ALLOWED, pod, domain
        except KubeError as error:
            return Verdict("error", f"kubevirt failed getting the pod: {error}"), None, None
        return self._judge(review, pod, domain), pod, domain

    def _judge(self, review: Review, pod: Object, domain: str) -> Verdict:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                vm = VirtualMachine.read(self._kube.get(VIRTUAL_MACHINES, domain, review.namespace))
            except (KubeError, InputError) as error:
                return unreadable(error)
            verdict = judge(review, pod, vm)
            if verdict is not None:
                return verdict
            try:
                self._mark(vm, pod["spec"]["nodeName"], review)
            except KubeError as error:
                if error.status == CONFLICT and attempt < ATTEMPTS:
                    continue  # somebody wrote the VM since; look again, perhaps it is marked by now
                return unmarkable(error)
            return marked(vm)
        raise AssertionError("the last attempt returns")

    def _mark(self, vm: VirtualMachine, node: str, review: Review) -> None:
        """Mark a VM if nobody wrote it since it was read, so two evictions never mark it twice."""
        patch = {
            "metadata": {"uid": vm.uid, "resourceVersion": vm.resource_version},
            "status": {
                "evacuationNodeName": node,
                "evacuationRequestedTimestamp": format_time(self._clock.now()),
            },
        }
        self._kube.patch(
            VIRTUAL_MACHINES, vm.name, patch, vm.namespace, subresource="status", dry_run=review.is_dry_run
        )
        if review.source:
            # A status write leaves metadata alone, so this is a second one; without it only the order of migrations
            # that wait would differ.
            source = {"metadata": {"uid": vm.uid, "annotations": {EVICTION_SOURCE_ANNOTATION: review.source}}}
            try:
                self._kube.patch(VIRTUAL_MACHINES, vm.name, source, vm.namespace, dry_run=review.is_dry_run)
            except KubeError as error:
                logger.warning("eviction source of %s not noted: %s", vm.name, error)

    def _note(self, review: Review, verdict: Verdict, pod: Mapping[str, Any] | None, vm_name: str | None) -> None:
        with self._lock:
            self._count += 1
            self._record.append(
                {
                    "id": self._count,
                    "time": self._clock.now(),
                    "namespace": review.namespace,
                    "pod": review.pod,
                    "vm": vm_name,
                    "node": None if pod is None else pod["spec"].get("nodeName"),
                    "result": verdict.result,
                    "message": verdict.message,
                    "source": review.source or review.user,
                    "dry_run": review.is_dry_run,
                }
            )
