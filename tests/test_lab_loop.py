"""What a live run sets beside the descheduler's policy, and how it leaves it; on a cluster made of dicts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from labkit.kube import CONFIG_MAPS, DEPLOYMENTS, Resource
from labkit.lab.loop import Loop
from labkit.names import DESCHEDULING_INTERVAL_KEY, EVALUATION_INTERVAL_KEY

PRODUCTION = {"parallelMigrationsPerCluster": "5", "parallelOutboundMigrationsPerNode": "2"}


class FakeKube:
    """ConfigMaps and Deployments; whatever is scaled is so at once."""

    def __init__(self) -> None:
        self.data: dict[tuple[str, str], dict[str, str]] = {}
        self.replicas: dict[str, int] = {}

    def get(self, resource: Resource, name: str, namespace: str) -> dict[str, Any]:
        if resource == CONFIG_MAPS:
            return {"data": dict(self.data.setdefault((namespace, name), {}))}
        count = self.replicas.get(name, 1)
        status = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas"), count)
        return {"metadata": {"generation": 0}, "spec": {"replicas": count}, "status": status}

    def patch(self, resource: Resource, name: str, patch: dict[str, Any], namespace: str) -> None:
        if resource == CONFIG_MAPS:
            self.data.setdefault((namespace, name), {}).update(patch["data"])
        elif resource == DEPLOYMENTS and "replicas" in patch["spec"]:
            self.replicas[name] = patch["spec"]["replicas"]

    def list(self, resource: Resource, namespace: str, *, label_selector: str) -> dict[str, Any]:
        return {"items": [{}] * self.replicas.get(label_selector.partition("=")[2], 1)}

    @property
    def limits(self) -> dict[str, str]:
        return self.data["monitoring", "migration-policy"]


@pytest.fixture
def kube() -> FakeKube:
    return FakeKube()


@pytest.fixture
def loop(kube: FakeKube) -> Loop:
    loop = Loop(backend="local")
    loop._lab = SimpleNamespace(kube=kube, tempo=15)  # type: ignore[assignment]
    return loop


def test_a_run_has_its_factors_and_leaves_production_s(loop: Loop, kube: FakeKube) -> None:
    policy = {
        "migrations_per_cluster": 9,
        "descheduling_interval": "2m",
        "evaluation_interval": "30s",
        "soft_taints": True,
    }
    with loop._factors(policy):
        assert kube.limits == PRODUCTION | {"parallelMigrationsPerCluster": "9"}
        assert kube.data["kube-descheduler", "lab"] == {DESCHEDULING_INTERVAL_KEY: "8s"}
        assert kube.data["monitoring", "lab"] == {EVALUATION_INTERVAL_KEY: "2s"}
        assert kube.replicas["soft-tainter"] == 1
    assert kube.limits == PRODUCTION
    assert kube.data["kube-descheduler", "lab"] == {DESCHEDULING_INTERVAL_KEY: "4s"}
    assert kube.data["monitoring", "lab"] == {EVALUATION_INTERVAL_KEY: "1s"}
    assert kube.replicas["soft-tainter"] == 0


def test_a_run_goes_by_nothing_that_one_which_died_has_left(loop: Loop, kube: FakeKube) -> None:
    kube.data["monitoring", "migration-policy"] = {"parallelMigrationsPerCluster": "50", "maxDowntime": "900ms"}
    kube.replicas["soft-tainter"] = 1
    with loop._factors({}):
        assert kube.limits == PRODUCTION | {"maxDowntime": "900ms"}
        assert kube.replicas["soft-tainter"] == 0


def test_factors_are_set_back_when_the_last_of_them_could_not_be_set(loop: Loop, kube: FakeKube) -> None:
    def refuse(namespace: str, name: str, replicas: int, **_: Any) -> None:
        if replicas:
            raise RuntimeError("no")

    loop._scale = refuse  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="no"), loop._factors({"migrations_per_node": 7, "soft_taints": True}):
        raise AssertionError
    assert kube.limits == PRODUCTION
