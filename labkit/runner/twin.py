"""Runs of the twin, in bulk, on Dask.

A worker plays a batch of runs and sends back finished records and tables; this process alone writes, so workers
need no common disk. A run that fails is a result too. When a worker dies Dask plays its batch elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import dask
from distributed import Client, LocalCluster, as_completed

from labkit import results
from labkit.errors import ClusterError
from labkit.experiment import RunSpec
from labkit.lab import Lab
from labkit.results import RunRecord
from labkit.runner.play import failure, play, record_of

BATCH_SECONDS: Final = 4.0
"""A batch takes about this long: long against Dask's overhead, short against the patience of who interrupts it."""
MAX_BATCH: Final = 32


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
            with (
                LocalCluster(  # type: ignore[no-untyped-call]
                    n_workers=os.cpu_count() or 1, threads_per_worker=1, processes=True, host="127.0.0.1",
                    dashboard_address=None, silence_logs=50,
                ) as cluster,
                Client(cluster) as client,  # type: ignore[no-untyped-call]
            ):  # fmt: skip
                yield client
            return
        try:
            client = Client(address, timeout="10s")  # type: ignore[no-untyped-call]
        except (OSError, ValueError) as exc:
            raise ClusterError(
                f"wanted a Dask scheduler at {address}, found none ({exc}): start one with 'dask scheduler --host "
                "127.0.0.1', workers with 'dask worker ADDRESS', or leave --scheduler out"
            ) from exc
        with client:
            yield client


def batches(jobs: Sequence[Job], *, run_seconds: float, workers: int) -> list[list[Job]]:
    """Cut the runs into batches, in order, so that each worker gets several."""
    fair = max(1, len(jobs) // (4 * max(workers, 1)))
    size = max(1, min(fair, MAX_BATCH, int(BATCH_SECONDS / max(run_seconds, 1e-3))))
    return [list(jobs[start : start + size]) for start in range(0, len(jobs), size)]


def play_all(jobs: Sequence[Job], client: Any, *, run_seconds: float) -> Iterator[Finished]:
    """Play runs on the workers of a client; yields each as soon as its batch is there, in no fixed order.

    Closing the iterator (an interrupt does it) gives up what is still in flight.
    """
    workers = len(client.scheduler_info()["workers"]) or 1
    cut = batches(jobs, run_seconds=run_seconds, workers=workers)
    futures = [client.submit(play_batch, batch, pure=False) for batch in cut]
    batch_of = {future.key: batch for future, batch in zip(futures, cut, strict=True)}
    waiting = as_completed(futures)  # type: ignore[no-untyped-call]
    del futures  # a future that is held keeps its result in the worker's memory
    try:
        for future in waiting:
            batch = batch_of.pop(future.key)
            if future.status == "finished":
                yield from future.result()
            else:
                error = future.exception() or ClusterError("the run was cancelled")
                for job in batch:
                    yield Finished(failure(job.spec, error, experiment=job.experiment, key=job.key), {})
            future.release()
    finally:
        client.cancel(list(waiting.futures))
