"""What the pod manager tells: metrics, Kubernetes events, and the record of migrations.

The record is bounded and lives in memory. The durable one is in each VM's status: after a restart the latest migration
of every VM, and up to five before it, are read back from there.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from labkit.kube import Kube, Object
from labkit.virtualmachine import Migration, VirtualMachine
from services.pod_manager.logic import Announcement, describe

logger = logging.getLogger(__name__)

COMPONENT: Final = "pod-manager"
RECORDED: Final = 20_000
"""Migrations that ``GET /migrations`` still knows."""
SHOWN: Final = 500
"""Finished migrations that still have series of their own."""
EVENTS_WAITING: Final = 1_000

LAB_SECONDS_BUCKETS: Final = (1, 2, 5, 10, 20, 40, 60, 90, 120, 180, 240, 300, 600, 900, 1800, 3600)
WALL_SECONDS_BUCKETS: Final = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0)


class MigrationRecord:
    """The migrations seen so far, by UID, the oldest first. Safe to use from several threads."""

    def __init__(self, size: int = RECORDED) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def note(self, migration: Migration, vm: VirtualMachine) -> None:
        """Take in a migration as it is now."""
        with self._lock:
            self._entries[migration.uid] = describe(migration, vm)
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)

    def entries(self) -> list[dict[str, Any]]:
        """Return all of them."""
        with self._lock:
            return list(self._entries.values())


class Recorder:
    """Writes Kubernetes events in a thread of its own: an event never holds a migration up."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="events")
        self._waiting = threading.BoundedSemaphore(EVENTS_WAITING)

    def announce(self, vm: Object, announcement: Announcement) -> None:
        """Record an event about a VM; when too many wait it is dropped, and logged."""
        if not self._waiting.acquire(blocking=False):
            logger.warning("event about %s dropped: %s", vm["metadata"]["name"], announcement.message)
            return
        self._executor.submit(self._write, vm, announcement)

    def close(self) -> None:
        """Write what waits."""
        self._executor.shutdown(wait=True)

    def _write(self, vm: Object, announcement: Announcement) -> None:
        try:
            self._kube.record_event(
                vm,
                reason=announcement.reason,
                message=announcement.message,
                component=COMPONENT,
                warning=announcement.warning,
            )
        finally:
            self._waiting.release()


class Telemetry:
    """The metrics, in a registry of their own.

    Parameters
    ----------
    tempo : int
        Lab seconds in a second.
    """

    def __init__(self, *, tempo: int) -> None:
        self._tempo = tempo
        self.registry = CollectorRegistry()
        self.record = MigrationRecord()
        self.migrations = Counter(
            "lab_migrations", "Migrations that ended, by outcome.", ["outcome"], registry=self.registry
        )
        for outcome in ("succeeded", "failed"):
            self.migrations.labels(outcome)
        self.duration = Histogram(
            "lab_migration_duration_seconds",
            "From the accepted eviction to the hand-over, in lab seconds.",
            buckets=LAB_SECONDS_BUCKETS,
            registry=self.registry,
        )
        self.control = Histogram(
            "lab_migration_control_seconds",
            "From the accepted eviction to the hand-over without the copy, in seconds of wall time; "
            "first attempts that found a place at once.",
            buckets=WALL_SECONDS_BUCKETS,
            registry=self.registry,
        )
        self.downtime = Histogram(
            "lab_migration_downtime_seconds",
            "Pause of the VM at the hand-over, in lab seconds.",
            buckets=(0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 2.0),
            registry=self.registry,
        )
        self.transferred = Counter("lab_migration_bytes", "Bytes that copies sent.", registry=self.registry)
        self.pods = Counter("lab_launcher_pods", "Launcher pods written, by what.", ["action"], registry=self.registry)
        self.failures = Counter(
            "lab_reconcile_failures", "Reconciles that failed and are repeated.", registry=self.registry
        )

    def arrived(self, migration: Migration, *, copy_lab_seconds: float, waited: bool) -> None:
        """Count a hand-over; ``waited`` tells whether the limits had held the migration back."""
        if migration.handed_over is None:
            return
        seconds = migration.handed_over - migration.requested
        self.duration.observe(seconds * self._tempo)
        self.downtime.observe(migration.downtime_seconds)
        if migration.attempt == 1 and not waited:
            self.control.observe(max(0.0, seconds - copy_lab_seconds / self._tempo))

    def ended(self, migration: Migration) -> None:
        """Count a migration that has ended."""
        self.migrations.labels("succeeded" if migration.phase == "Succeeded" else "failed").inc()
        self.transferred.inc(migration.transferred_bytes)

    def watch(self, running: Callable[[], Iterable[GaugeMetricFamily]]) -> None:
        """Add the series of the migrations that run, made at each scrape."""
        self.registry.register(_Scraped(running))


class _Scraped(Collector):
    def __init__(self, families: Callable[[], Iterable[GaugeMetricFamily]]) -> None:
        self._families = families

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return ()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield from self._families()
