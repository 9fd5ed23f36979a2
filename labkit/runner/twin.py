"""Runs of the twin, in bulk, on Dask.

A worker plays a batch of runs and sends back finished records and tables; this process alone writes, so workers need
no common disk, only the same labkit (and files of scenarios at the same path). A run that fails is a result too. When a
worker dies Dask plays its batch elsewhere; when all are gone for :data:`NO_WORKERS_SECONDS` the matrix is given up.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import dask
from distributed import CancelledError, Client, LocalCluster, as_completed
from distributed.client import ClosedClientError
from distributed.comm.core import CommClosedError

from labkit import results
from labkit.clock import WALL_CLOCK
from labkit.errors import ClusterError
from labkit.experiment import RunSpec
from labkit.lab import Lab
from labkit.results import RunRecord
from labkit.runner.play import context, failure, play, record_of

BATCH_SECONDS: Final = 4.0
"""A batch takes about this long: long against Dask's overhead, short against the patience of who interrupts it."""
MAX_BATCH: Final = 32
BATCHES_PER_WORKER: Final = 2
"""One is played, one waits, so that no worker idles."""
SCHEDULER_DEADLINE_SECONDS: Final = 10.0
"""A scheduler that has not answered until then is not there."""
NO_WORKERS_SECONDS: Final = 120.0
"""How long a scheduler may have no worker: long enough to start some, or for a batch system to replace them."""
_LOST: Final = (CancelledError, ClosedClientError, CommClosedError)
_POLL_SECONDS: Final = 0.05
_LOOK_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Job:
    """A run to be played: what, under which name, with which hash."""

    spec: RunSpec
    experiment: str
    key: str


@dataclass(frozen=True)
class Finished:
    """A run that was played, with its tables as Parquet files (none when it failed)."""

    record: RunRecord
    encoded: dict[str, bytes]


def play_batch(jobs: Sequence[Job]) -> list[Finished]:
    """Play runs one after another; runs on a worker."""
    return [_play_one(job) for job in jobs]


def _play_one(job: Job) -> Finished:
    try:
        if job.spec.key(context(job.spec)) != job.key:
            raise ClusterError(
                "this worker has another labkit, or other rules, scenarios or algorithms, than who sent the run: "
                "install the same there, then use --retry-failed"
            )
        with Lab(backend="sim", tempo=job.spec.tempo) as lab:
            run = play(job.spec, lab)
        record = record_of(run, job.spec, experiment=job.experiment, key=job.key)
        return Finished(record, results.encode_tables(run.tables))
    except Exception as exc:  # one run's fault must not cost its neighbours theirs
        return Finished(failure(job.spec, exc, experiment=job.experiment, key=job.key), {})


@contextmanager
def connect(address: str | None) -> Iterator[Client]:
    """Give a client of the scheduler at an address, or of a cluster on this machine for as long as it is used.

    Raises
    ------
    ClusterError
        If no scheduler answers.
    """
    # Dask would count a worker's death against the batch it held three times before giving up; its log of that
    # belongs to us, not to the terminal.
    with dask.config.set({"distributed.scheduler.allowed-failures": 3, "distributed.logging.distributed": "critical"}):
        if address is None:
            with _local_cluster() as cluster, Client(cluster) as client:  # type: ignore[no-untyped-call]
                yield client
            return
        try:
            client = Client(address, timeout=SCHEDULER_DEADLINE_SECONDS)  # type: ignore[no-untyped-call]
        except (OSError, ValueError) as exc:
            raise ClusterError(
                f"wanted a Dask scheduler at {address}, found none ({exc}): start one with 'dask scheduler --host "
                "127.0.0.1', workers with 'dask worker ADDRESS', or leave --scheduler out"
            ) from exc
        with client:
            yield client


def _local_cluster() -> Any:
    """Start one worker per core, deaf to Ctrl-C: this process alone hears it, and then tells them to stop."""
    main = threading.current_thread() is threading.main_thread()
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        return LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=os.cpu_count() or 1, threads_per_worker=1, processes=True, host="127.0.0.1",
            dashboard_address=None, silence_logs=50,
        )  # fmt: skip
    finally:
        if heard is not None:
            signal.signal(signal.SIGINT, heard)


def batch_size(run_seconds: float) -> int:
    """Return how many runs make a batch when one takes so long."""
    return max(1, min(MAX_BATCH, int(BATCH_SECONDS / max(run_seconds, 1e-3))))


def play_all(jobs: Sequence[Job], client: Any) -> Generator[Finished, None, None]:
    """Play runs on the workers of a client; yields each as soon as its batch is there, in no fixed order.

    The first batches hold one run each; the later ones as many as past runs suggest. Only a few batches per worker are
    under way at once, and closing the iterator (an interrupt does it) gives them up.

    Raises
    ------
    ClusterError
        If the scheduler is lost, or has had no worker for :data:`NO_WORKERS_SECONDS`.
    """
    queue = deque(jobs)
    batch_of: dict[str, list[Job]] = {}
    waiting = as_completed()  # type: ignore[no-untyped-call]

    def submit(size: int) -> None:
        """Keep the workers busy, those that joined later too."""
        while queue and len(batch_of) < BATCHES_PER_WORKER * max(1, _count_workers(client)):
            batch = [queue.popleft() for _ in range(min(size, len(queue)))]
            future = client.submit(play_batch, batch, pure=False)
            batch_of[future.key] = batch
            waiting.add(future)  # type: ignore[no-untyped-call]

    seconds, count = 0.0, 0
    try:
        with _told_when_lost():
            submit(1)
        while batch_of:
            with _told_when_lost():
                future = _next(waiting, client)
                batch = batch_of.pop(future.key)
                if future.status == "finished":
                    answers = future.result()
                    seconds += sum(float(each.record.summary.get("wall_seconds") or 0.0) for each in answers)
                    count += len(answers)
                elif future.status == "error":
                    answers = [
                        Finished(failure(job.spec, future.exception(), experiment=job.experiment, key=job.key), {})
                        for job in batch
                    ]
                else:
                    raise CancelledError
                future.release()
                submit(batch_size(seconds / count) if count else 1)
            yield from answers
    finally:
        with suppress(*_LOST):
            client.cancel(list(waiting.futures))


@contextmanager
def _told_when_lost() -> Iterator[None]:
    """Say so in whatever way Dask notices that its scheduler is gone: it depends on what it is doing then."""
    try:
        yield
    except _LOST as exc:
        raise ClusterError("lost the Dask scheduler: the runs so far are kept, the same command goes on") from exc


def _next(waiting: Any, client: Any) -> Any:
    """Return the next future that is done, as long as there is somebody who could do it."""
    seen = WALL_CLOCK.monotonic()
    looked = seen
    while not waiting.has_ready():
        now = WALL_CLOCK.monotonic()
        if now - looked >= _LOOK_SECONDS:
            looked = now
            if _count_workers(client):
                seen = now
            elif now - seen >= NO_WORKERS_SECONDS:
                raise ClusterError(
                    f"wanted workers at the Dask scheduler, found none for {NO_WORKERS_SECONDS:g} s: start some with "
                    "'dask worker ADDRESS'; the runs so far are kept, the same command goes on"
                )
        WALL_CLOCK.wait(_POLL_SECONDS)
    return next(waiting)


def _count_workers(client: Any) -> int:
    return len(client.scheduler_info()["workers"])
