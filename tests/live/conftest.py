"""A running lab for the tests on the real components."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from labkit import cluster
from labkit.cluster import BACKENDS, LabConfig, RunningLab
from labkit.cluster.algorithm import stop_descheduling
from labkit.names import DESCHEDULER_NAMESPACE

NewLab = Callable[..., RunningLab]


def _name(backend: str, name: str) -> str:
    return name if backend == "local" else f"{name}-{backend}"


def _address(backend: str, number: int) -> str:
    """Return an address that no test of the other backend uses, so that both can be tested side by side."""
    return f"127.0.{BACKENDS.index(backend)}.{number}"


@pytest.fixture(scope="session")
def backend(pytestconfig: pytest.Config) -> str:
    """Return the backend that is tested: ``--backend``."""
    return str(pytestconfig.getoption("--backend"))


@pytest.fixture(scope="session")
def lab(backend: str) -> Iterator[RunningLab]:
    """Return a lab at tempo 15 that all tests share: leave it as you found it."""
    config = LabConfig(name=_name(backend, "test-live"), address=_address(backend, 2), tempo=15, backend=backend)
    cluster.down(config.name)
    try:
        yield cluster.up(config)
    finally:
        cluster.down(config.name)


@pytest.fixture(scope="module")
def quiet_lab(lab: RunningLab) -> Iterator[RunningLab]:
    """The shared lab without its descheduler, which would move VMs between two looks of a test."""
    stop_descheduling(lab.kube, timeout_seconds=120)
    yield lab
    lab.kubectl("scale", "deployment/descheduler", "-n", DESCHEDULER_NAMESPACE, "--replicas=1")
    lab.kubectl(
        "rollout", "status", "deployment/descheduler", "-n", DESCHEDULER_NAMESPACE, "--timeout=120s",
        timeout_seconds=150,
    )  # fmt: skip


@pytest.fixture
def new_lab(backend: str) -> Iterator[NewLab]:
    """Return a function that brings up labs for one test alone, by default at tempo 15."""
    names: list[str] = []

    def bring_up(name: str = "test-second", *, tempo: int = 15) -> RunningLab:
        config = LabConfig(name=_name(backend, name), address=_address(backend, 3), tempo=tempo, backend=backend)
        cluster.down(config.name)
        names.append(config.name)
        return cluster.up(config)

    try:
        yield bring_up
    finally:
        for name in names:
            cluster.down(name)
