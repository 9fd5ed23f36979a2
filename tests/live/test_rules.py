"""Rules, policy and ``labkit use`` on the real Prometheus and the real descheduler."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from labkit import scoring
from labkit.clock import WALL_CLOCK, wait_until
from labkit.cluster import RunningLab, toolbuild
from labkit.cluster.algorithm import check_scores, cycle_fault, switch_algorithm
from labkit.datafiles import data_path
from labkit.errors import NoSamplesError, NotReadyError, PrometheusError
from labkit.kube import CONFIG_MAPS, NODES, PODS, PROMETHEUS_RULES
from labkit.names import DESCHEDULER_NAMESPACE, POLICY_CONFIG_MAP, PROMETHEUS_PORT, RULE_LOADER_PORT
from labkit.policy import read_policy
from labkit.prometheus import Prometheus

pytestmark = pytest.mark.live

RULE = "rules-test"
RECORD = "rulestest:node_cpu_usage:value"
EVALUATION_SECONDS = 1.0
"""The evaluation interval at tempo 15."""
RELOAD_SECONDS = 1.0
"""How often Prometheus looks for changed files."""
LEEWAY_SECONDS = 60.0
"""For a machine that does other things, too."""


@pytest.fixture(scope="module")
def prometheus(lab: RunningLab) -> Prometheus:
    return Prometheus(lab.url(PROMETHEUS_PORT))


@pytest.fixture
def no_rule(lab: RunningLab) -> Iterator[None]:
    lab.kube.delete(PROMETHEUS_RULES, RULE, "default")
    yield
    lab.kube.delete(PROMETHEUS_RULES, RULE, "default")


@pytest.fixture
def same_policy(lab: RunningLab, prometheus: Prometheus) -> Iterator[str]:
    """Give the policy's text; put it back at the end, with a descheduler that goes by it."""
    before = policy_text(lab)
    yield before
    if policy_text(lab) != before:
        patch = {"data": {"policy.yaml": before}}
        lab.kube.patch(CONFIG_MAPS, POLICY_CONFIG_MAP, patch, DESCHEDULER_NAMESPACE)
        kubectl(lab, "rollout", "restart", "-n", DESCHEDULER_NAMESPACE, "deployment/descheduler")
    kubectl(lab, "rollout", "status", "-n", DESCHEDULER_NAMESPACE, "deployment/descheduler", "--timeout=120s")


def kubectl(lab: RunningLab, *arguments: str, stdin: str | None = None) -> str:
    done = lab.kubectl(*arguments, stdin=stdin, timeout_seconds=150)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(lab: RunningLab, obj: dict[str, Any]) -> str:
    done = lab.kubectl("apply", "-f", "-", stdin=json.dumps(obj))
    assert done.returncode != 0, done.stdout
    return done.stderr


def rule(expr: str, record: str = RECORD) -> dict[str, Any]:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": RULE, "namespace": "default"},
        "spec": {"groups": [{"name": "test", "rules": [{"record": record, "expr": expr}]}]},
    }


def apply(lab: RunningLab, obj: dict[str, Any]) -> None:
    kubectl(lab, "apply", "-f", "-", stdin=json.dumps(obj))


def value(prometheus: Prometheus, record: str = RECORD) -> set[float]:
    return {sample.value for sample in prometheus.query(record)}


def policy_text(lab: RunningLab) -> str:
    text: str = lab.kube.get(CONFIG_MAPS, POLICY_CONFIG_MAP, DESCHEDULER_NAMESPACE)["data"]["policy.yaml"]
    return text


def loaded_rules(prometheus: Prometheus) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{prometheus.url}/api/v1/rules", timeout=10) as answer:
        groups = json.load(answer)["data"]["groups"]
    return [entry for group in groups for entry in group["rules"]]


# --- the lab's own rules ----------------------------------------------------------------------------


def test_rules_are_listed(lab: RunningLab) -> None:
    assert "descheduler-algorithms" in kubectl(lab, "get", "prometheusrules", "-n", "monitoring")


def test_every_rule_is_well_and_moved_to_this_tempo(lab: RunningLab, prometheus: Prometheus) -> None:
    def all_well() -> list[dict[str, Any]] | None:
        rules = loaded_rules(prometheus)
        return rules if rules and all(entry["health"] == "ok" for entry in rules) else None

    rules = wait_until(all_well, timeout_seconds=LEEWAY_SECONDS, what="every rule to be evaluated")
    queries = "\n".join(entry["query"] for entry in rules)
    assert "rate(node_pressure_cpu_waiting_seconds_total[4s])" in queries
    assert "[1m]" not in queries


@pytest.mark.parametrize("algorithm", scoring.NINETEEN, ids=lambda algorithm: algorithm.name)
def test_every_algorithm_scores_every_node_in_both_forms(
    lab: RunningLab, prometheus: Prometheus, algorithm: scoring.Algorithm
) -> None:
    policy = read_policy(policy_text(lab))
    for record in algorithm.records.values():
        found = wait_until(
            lambda record=record: scored(lab, prometheus, policy.with_query(record)),  # type: ignore[misc]
            timeout_seconds=LEEWAY_SECONDS,
            what=f"{record} of every node",
        )
        assert all(0.0 <= score <= 1.0 for score in found.values())


def scored(lab: RunningLab, prometheus: Prometheus, policy: Any) -> dict[str, float] | None:
    try:
        return check_scores(lab.kube, prometheus, policy)
    except NoSamplesError:
        return None


@pytest.mark.parametrize("page", ["query", "targets", "rules"])
def test_prometheus_has_its_pages(lab: RunningLab, prometheus: Prometheus, page: str) -> None:
    try:
        with urllib.request.urlopen(f"{prometheus.url}/{page}", timeout=10) as answer:
            assert b"Prometheus" in answer.read()
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 500 and toolbuild.missing_pages():
                pytest.skip("these tools were built without Prometheus' pages")
            raise


# --- rules that come, change and fail ---------------------------------------------------------------


@pytest.mark.usefixtures("no_rule")
def test_changed_rule_takes_effect_within_one_evaluation(lab: RunningLab, prometheus: Prometheus) -> None:
    for number in (1, 2):
        apply(lab, rule(f"vector({number})"))
        wait_until(
            lambda number=number: value(prometheus) == {float(number)},  # type: ignore[misc]
            timeout_seconds=EVALUATION_SECONDS + RELOAD_SECONDS + LEEWAY_SECONDS,
            what=f"the record's value {number}",
        )
    lab.kube.delete(PROMETHEUS_RULES, RULE, "default")
    wait_until(
        lambda: not prometheus.query(RECORD),
        timeout_seconds=3 * EVALUATION_SECONDS + RELOAD_SECONDS + LEEWAY_SECONDS,
        what="the deleted rule's record to end",
    )


@pytest.mark.usefixtures("no_rule")
@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (rule("sum(rate(foo[1m])"), "unclosed left parenthesis"),
        (rule("rate(foo)"), "expected type range vector"),
        (rule("up", "descheduler:node:max_metric:score"), "already written by PrometheusRule monitoring/"),
        (rule("rate(foo[1ms])"), "divided by tempo 15"),
        (rule("up") | {"spec": {"groups": [{"name": "g", "rules": [{"record": RECORD}]}]}}, "expr"),
    ],
    ids=["parse", "type", "duplicate", "window", "no expression"],
)
def test_broken_rule_is_refused_and_the_former_goes_on(
    lab: RunningLab, prometheus: Prometheus, broken: dict[str, Any], message: str
) -> None:
    apply(lab, rule("vector(7)"))
    wait_until(lambda: value(prometheus) == {7.0}, timeout_seconds=LEEWAY_SECONDS, what="the record")
    assert message in refused(lab, broken)
    stored = lab.kube.get(PROMETHEUS_RULES, RULE, "default")
    assert stored["spec"]["groups"][0]["rules"][0]["expr"] == "vector(7)"
    instant = WALL_CLOCK.now() + EVALUATION_SECONDS
    wait_until(lambda: WALL_CLOCK.now() > instant, timeout_seconds=LEEWAY_SECONDS, what="another evaluation")
    assert value(prometheus) == {7.0}


def test_a_score_of_ones_own_is_a_rule_and_a_query(
    lab: RunningLab, prometheus: Prometheus, no_rule: None, same_policy: str
) -> None:
    apply(lab, rule("clamp_max(max by (instance) (node_cpu_usage_ratio), 1)"))
    wait_until(
        lambda: {bool(sample.labels.get("instance")) for sample in prometheus.query(RECORD)} == {True},
        timeout_seconds=LEEWAY_SECONDS,
        what="samples of this rule alone, and none of an earlier one of that name",
    )
    switch = switch_algorithm(lab.kube, prometheus, f"query:{RECORD}", scores_timeout_seconds=60, timeout_seconds=120)
    assert switch.policy.query == RECORD


def test_webhook_answers_the_api_server_only(lab: RunningLab) -> None:
    if lab.backend != "local":
        pytest.skip("on kind the API server has no client certificate")
    anybody = ssl.create_default_context()
    anybody.check_hostname = False
    anybody.verify_mode = ssl.CERT_NONE
    # With TLS 1.3 the server's refusal reaches the client with its first read.
    with pytest.raises((urllib.error.URLError, ConnectionError, ssl.SSLError)):
        urllib.request.urlopen(f"https://{lab.address}:{RULE_LOADER_PORT}/healthz", timeout=10, context=anybody)


# --- switching --------------------------------------------------------------------------------------


def test_use_switches_and_waits_for_a_cycle(lab: RunningLab, prometheus: Prometheus, same_policy: str) -> None:
    file = data_path("k8s", "descheduler-policy.yaml").read_text()
    before = {pod["metadata"]["uid"] for pod in descheduler_pods(lab)}
    switch = switch_algorithm(
        lab.kube,
        prometheus,
        "euclidean_distance",
        thresholds="AsymmetricMedium",
        evictions_total=4,
        timeout_seconds=120,
        scores_timeout_seconds=60,
    )
    policy = read_policy(policy_text(lab))
    assert policy.query == "descheduler:node:euclidean_distance:avg1m"
    assert (policy.low, policy.high, policy.evictions_total) == (0.0, 20.0, 4)
    pods = descheduler_pods(lab)
    assert [pod["metadata"]["name"] for pod in pods] == [switch.pod]
    assert not before & {pod["metadata"]["uid"] for pod in pods}
    assert cycle_fault(kubectl(lab, "logs", "-n", DESCHEDULER_NAMESPACE, switch.pod)) == ""
    assert data_path("k8s", "descheduler-policy.yaml").read_text() == file


def test_query_that_would_stop_the_loop_changes_nothing(
    lab: RunningLab, prometheus: Prometheus, same_policy: str
) -> None:
    some_node = lab.kube.list(NODES, label_selector="type=kwok")["items"][0]["metadata"]["name"]
    for query, message in (
        ("query:no_such_record", "found none"),
        (f'query:node_cpu_usage_ratio{{instance!="{some_node}"}}', f"found none for {some_node}"),
        ("query:node_memory_MemAvailable_bytes", r"within \[0, 1\]"),
        ("query:sum(", "Prometheus refused"),
    ):
        with pytest.raises(PrometheusError, match=message):
            switch_algorithm(lab.kube, prometheus, query)
    assert policy_text(lab) == same_policy


def test_switch_that_does_not_come_about_is_undone(lab: RunningLab, prometheus: Prometheus, same_policy: str) -> None:
    with pytest.raises(NotReadyError, match=r"the former policy, with .* is back"):
        switch_algorithm(lab.kube, prometheus, "max_metric", timeout_seconds=0.0, scores_timeout_seconds=30)
    assert policy_text(lab) == same_policy


def test_the_quickstarts_way_works_too(
    lab: RunningLab, prometheus: Prometheus, same_policy: str, tmp_path: Any
) -> None:
    original = data_path("k8s", "descheduler-policy.yaml").read_text()
    query = read_policy(yaml.safe_load(original)["data"]["policy.yaml"]).query
    edited = tmp_path / "descheduler-policy.yaml"
    edited.write_text(original.replace(query, "descheduler:node:euclidean_distance:avg1m"))
    kubectl(lab, "apply", "-f", str(edited))
    kubectl(lab, "rollout", "restart", "-n", "kube-descheduler", "deployment/descheduler")
    kubectl(lab, "rollout", "status", "-n", "kube-descheduler", "deployment/descheduler", "--timeout=120s")
    assert read_policy(policy_text(lab)).query == "descheduler:node:euclidean_distance:avg1m"
    pod = descheduler_pods(lab)[0]["metadata"]["name"]
    wait_until(
        lambda: cycle_fault(kubectl(lab, "logs", "-n", "kube-descheduler", pod)) == "",
        timeout_seconds=LEEWAY_SECONDS,
        what="a cycle of the new descheduler",
    )


def descheduler_pods(lab: RunningLab) -> list[dict[str, Any]]:
    pods: list[dict[str, Any]] = lab.kube.list(PODS, DESCHEDULER_NAMESPACE, label_selector="app=descheduler")["items"]
    return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
