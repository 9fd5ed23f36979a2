import copy
from typing import Any

import pytest
import yaml

from labkit.cluster.algorithm import (
    RESTARTED_ANNOTATION,
    algorithm_in_force,
    cycle_fault,
    query_of,
    switch_algorithm,
)
from labkit.datafiles import data_path
from labkit.errors import InputError, KubeError, NoAnswerError, NoSamplesError, NotReadyError, PrometheusError
from labkit.kube import CONFIG_MAPS, DEPLOYMENTS, NODES, PODS, Resource

GOOD = 'I1123 descheduler.go:252] "Number of evictions/requests" totalEvicted=0 evictionRequests=0'
BAD = 'E1123 descheduler.go:300] "running balance extension point failed with error" err="no sample" profile="p"'
FEW = 'I1123 descheduler.go:281] "Skipping descheduling cycle: requires >=2 nodes" found=1'


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], None),
        (["I1123 starting"], None),
        ([BAD], None),
        (["I1123 starting", GOOD], ""),
        ([BAD, GOOD], BAD),
        ([FEW, GOOD], FEW),
        ([BAD, GOOD, "I1123 classified", GOOD], ""),
        ([GOOD, BAD, GOOD], BAD),
        ([GOOD, BAD], ""),
    ],
    ids=["empty", "no cycle", "in it", "good", "failed", "one node", "failed then good", "good then failed", "in next"],
)
def test_last_cycle_of_the_log(lines: list[str], expected: str | None) -> None:
    assert cycle_fault("\n".join(lines)) == expected


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("euclidean_distance", "descheduler:node:euclidean_distance:avg1m"),
        ("descheduler:node:euclidean_distance:score", "descheduler:node:euclidean_distance:score"),
        ("production_k3", "descheduler:node:linear_amplified_ideal_point_positive_distance:k3:avg1m"),
        ("query: max by (instance) (up)", "max by (instance) (up)"),
    ],
    ids=["name", "record", "production", "own query"],
)
def test_query_of_a_name(name: str, query: str) -> None:
    assert query_of(name) == query


def test_unknown_name_gets_a_hint() -> None:
    with pytest.raises(InputError, match="did you mean euclidean_distance"):
        query_of("euclidian_distance")


class FakeKube:
    """The policy, the Deployment, two nodes, and a descheduler that starts and says what it is told to."""

    def __init__(self, log: str = GOOD, *, replicas: int = 1, restarts: int = 0) -> None:
        self.policy = yaml.safe_load(data_path("k8s", "descheduler-policy.yaml").read_text())
        self.policy["metadata"]["resourceVersion"] = "1"
        self.deployment: dict[str, Any] = {"spec": {"replicas": replicas, "template": {}}}
        self.log = log
        self.restarts = restarts
        self.policies = [self.text]
        self.interfere = ""
        self.conflict = False

    @property
    def text(self) -> str:
        text: str = self.policy["data"]["policy.yaml"]
        return text

    def get(self, resource: Resource, name: str, namespace: str) -> dict[str, Any]:
        return copy.deepcopy(self.policy if resource == CONFIG_MAPS else self.deployment)

    def patch(self, resource: Resource, name: str, patch: dict[str, Any], namespace: str) -> None:
        if resource == DEPLOYMENTS:
            self.deployment["spec"] |= patch["spec"]
            if self.interfere:
                self.policy["data"]["policy.yaml"] = self.interfere
        elif self.conflict:
            raise KubeError("changed since", status=409, reason="Conflict")
        else:
            self.policy["data"] |= patch["data"]
            self.policies.append(self.text)

    def list(self, resource: Resource, namespace: str = "", *, label_selector: str = "") -> dict[str, Any]:
        if resource == NODES:
            ready = {"conditions": [{"type": "Ready", "status": "True"}]}
            return {"items": [{"metadata": {"name": name}, "status": ready} for name in ("n1", "n2")]}
        assert resource == PODS
        annotations = self.deployment["spec"]["template"].get("metadata", {}).get("annotations", {})
        status = {"phase": "Running", "containerStatuses": [{"restartCount": self.restarts}]}
        return {"items": [{"metadata": {"name": "new-pod", "annotations": annotations}, "status": status}]}

    def raw(self, method: str, path: str, *, query: dict[str, str]) -> bytes:
        return self.log.encode()


class FakePrometheus:
    def __init__(self, **values: float) -> None:
        self.values = values

    def by_node(self, promql: str) -> dict[str, float]:
        return self.values


SCORES = FakePrometheus(n1=0.0, n2=1.0, other=7.0)


def switch(kube: FakeKube, prometheus: FakePrometheus = SCORES, **options: Any) -> Any:
    return switch_algorithm(kube, prometheus, "max_metric", **{"timeout_seconds": 0.0} | options)  # type: ignore[arg-type]


def test_what_the_descheduler_goes_by() -> None:
    kube = FakeKube()
    shipped = query_of("production_k3")
    assert algorithm_in_force(kube) == "production_k3"  # type: ignore[arg-type]
    for query, name in (("descheduler:node:max_metric:avg1m", "max_metric"), ("up", "query:up")):
        kube.policy["data"]["policy.yaml"] = FakeKube().text.replace(shipped, query)
        assert algorithm_in_force(kube) == name  # type: ignore[arg-type]
    assert algorithm_in_force(FakeKube(replicas=0)) == "none"  # type: ignore[arg-type]


def test_switch_changes_the_policy_and_restarts() -> None:
    kube = FakeKube()
    done = switch(kube, thresholds="5:15", evictions_per_node=1)
    assert (done.pod, done.policy.text) == ("new-pod", kube.text)
    assert (done.policy.query, done.policy.low, done.policy.high) == ("descheduler:node:max_metric:avg1m", 5.0, 15.0)
    assert RESTARTED_ANNOTATION in kube.deployment["spec"]["template"]["metadata"]["annotations"]


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"n1": 0.5}, NoSamplesError, "found none for n2"),
        ({"n1": 0.5, "n2": float("nan")}, PrometheusError, "found NaN for n2"),
        ({"n1": -0.1, "n2": 0.5}, PrometheusError, "found -0.1 for n1"),
        ({"n1": 1.01, "n2": 0.5}, PrometheusError, "found 1.01 for n1"),
    ],
    ids=["missing", "NaN", "negative", "above one"],
)
def test_scores_the_descheduler_would_choke_on_change_nothing(
    values: dict[str, float], error: type[Exception], message: str
) -> None:
    kube = FakeKube()
    with pytest.raises(error, match=message):
        switch(kube, FakePrometheus(**values))
    assert len(kube.policies) == 1


@pytest.mark.parametrize(
    ("kube", "message"),
    [
        (FakeKube(BAD + "\n" + GOOD), "its cycle fails: .*no sample"),
        (FakeKube("I1123 starting"), "finish a cycle; found: pod new-pod is Running"),
        (FakeKube("E1123 bad policy", restarts=3), "keeps ending .* its last words: E1123 bad policy"),
    ],
    ids=["failing cycle", "no cycle", "crash loop"],
)
def test_switch_that_fails_puts_the_old_policy_back(kube: FakeKube, message: str) -> None:
    with pytest.raises(NotReadyError, match=message + r".*the former policy, with .*:k3:avg1m, is back"):
        switch(kube)
    assert len(kube.policies) == 3
    assert kube.policies[2] == kube.policies[0] == kube.text


def test_switch_waits_for_servers_that_are_just_being_restarted() -> None:
    class Restarting(FakePrometheus):
        def by_node(self, promql: str) -> dict[str, float]:
            if not asked:
                asked.append(promql)
                raise NoAnswerError("connection refused")
            return super().by_node(promql)

    class Away(FakeKube):
        def list(self, resource: Resource, namespace: str = "", *, label_selector: str = "") -> dict[str, Any]:
            if resource == PODS and not listed:
                listed.append(namespace)
                raise KubeError("connection refused")
            return super().list(resource, namespace, label_selector=label_selector)

    asked: list[str] = []
    listed: list[str] = []
    done = switch(Away(), Restarting(n1=0.0, n2=1.0), timeout_seconds=10.0, scores_timeout_seconds=10.0)
    assert done.pod == "new-pod"
    assert asked
    assert listed


def test_switch_that_fails_stops_a_descheduler_that_was_stopped() -> None:
    kube = FakeKube("", replicas=0)
    with pytest.raises(NotReadyError):
        switch(kube)
    assert kube.deployment["spec"]["replicas"] == 0


def test_switch_that_fails_leaves_a_policy_alone_that_somebody_changed_since() -> None:
    kube = FakeKube("")
    kube.interfere = kube.text.replace("MetricResource: 10", "MetricResource: 30")
    with pytest.raises(NotReadyError, match="changed by somebody else"):
        switch(kube)
    assert kube.text == kube.interfere


def test_policy_that_changed_under_our_hands_is_not_overwritten() -> None:
    kube = FakeKube()
    kube.conflict = True
    with pytest.raises(KubeError, match="changed since"):
        switch(kube)
    assert len(kube.policies) == 1
    assert kube.deployment["spec"]["template"] == {}


def test_unreadable_policy_in_the_cluster_is_named_with_the_repair() -> None:
    kube = FakeKube()
    kube.policy["data"]["policy.yaml"] = "profiles: ["
    with pytest.raises(InputError, match=r"kubectl apply -f k8s/descheduler-policy\.yaml"):
        switch(kube)
