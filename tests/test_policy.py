import pytest
import yaml

from labkit.datafiles import data_path
from labkit.errors import InputError
from labkit.policy import Policy, read_policy


@pytest.fixture
def text() -> str:
    config_map = yaml.safe_load(data_path("k8s", "descheduler-policy.yaml").read_text())
    found: str = config_map["data"]["policy.yaml"]
    return found


@pytest.fixture
def policy(text: str) -> Policy:
    return read_policy(text)


def arguments(policy: Policy) -> dict[str, object]:
    content: dict[str, object] = yaml.safe_load(policy.text)["profiles"][0]["pluginConfig"][0]["args"]
    return content


def test_the_file_is_productions_profile(policy: Policy) -> None:
    # OpenShift's KubeVirtRelieveAndMigrate with AsymmetricLow: protocols of the cluster-kube-descheduler-operator.
    assert policy.query == "descheduler:node:linear_amplified_ideal_point_positive_distance:k3:avg1m"
    assert policy.node_selector == "kubevirt.io/schedulable=true"
    assert (policy.low, policy.high, policy.deviation) == (0.0, 10.0, True)
    assert (policy.evictions_per_node, policy.evictions_total) == (2, 5)
    assert yaml.safe_load(policy.text)["maxNoOfPodsToEvictPerNode"] == 2


def test_the_quickstarts_edit_works_by_hand(text: str) -> None:
    edited = text.replace(
        "query: descheduler:node:linear_amplified_ideal_point_positive_distance:k3:avg1m",
        "query: descheduler:node:euclidean_distance:avg1m",
    )
    assert read_policy(edited).query == "descheduler:node:euclidean_distance:avg1m"


def test_query_changes_nothing_else(policy: Policy) -> None:
    changed = policy.with_query("descheduler:node:max_metric:avg1m")
    before, after = policy.text.splitlines(), changed.text.splitlines()
    assert [(old.strip(), new.strip()) for old, new in zip(before, after, strict=True) if old != new] == [
        (f"query: {policy.query}", "query: descheduler:node:max_metric:avg1m")
    ]


@pytest.mark.parametrize(
    "query",
    [
        'max by (instance) (up{job="a b"}) # half',
        "1 - x: y",
        "{'quoted'}",
        "max by (instance) (\n  up\n)",
        "0.5",
        "yes",
    ],
    ids=["comment sign", "colon", "braces", "lines", "number", "word"],
)
def test_any_query_survives(policy: Policy, query: str) -> None:
    changed = policy.with_query(query)
    assert changed.query == query
    assert changed.with_query(policy.query).text == policy.text


def test_query_in_a_block_is_replaced(policy: Policy) -> None:
    block = policy.text.replace(f"query: {policy.query}\n", f"query: |-\n                      {policy.query}\n")
    assert read_policy(block).with_query("a:b:c").query == "a:b:c"
    assert read_policy(block).with_query("a:b:c").high == 10.0


def test_thresholds_and_limits_change_in_place(policy: Policy) -> None:
    changed = policy.with_thresholds(5, 20.5).with_limits(per_node=1, total=9)
    assert (changed.low, changed.high, changed.deviation) == (5.0, 20.5, True)
    assert (changed.evictions_per_node, changed.evictions_total) == (1, 9)
    assert yaml.safe_load(changed.text)["maxNoOfPodsToEvictPerNode"] == 1
    assert "# Migrations under way count, too." in changed.text
    assert len(changed.text.splitlines()) == len(policy.text.splitlines())


def test_limits_that_are_not_named_stay(policy: Policy) -> None:
    assert policy.with_limits() == policy
    assert policy.with_limits(total=7).evictions_per_node == 2


def test_limit_that_was_not_there_is_added(policy: Policy) -> None:
    content = yaml.safe_load(policy.text)
    del content["profiles"][0]["pluginConfig"][0]["args"]["evictionLimits"]
    del content["maxNoOfPodsToEvictTotal"]
    bare = read_policy(yaml.safe_dump(content))
    assert (bare.evictions_per_node, bare.evictions_total) == (None, None)
    assert bare.with_limits(per_node=3, total=4).evictions_per_node == 3
    assert bare.with_limits(per_node=3, total=4).evictions_total == 4


@pytest.mark.parametrize("limits", [{"per_node": 0}, {"total": -1}])
def test_senseless_limits_are_refused(policy: Policy, limits: dict[str, int]) -> None:
    with pytest.raises(InputError, match="wanted a limit of 1 eviction or more"):
        policy.with_limits(**limits)


def test_empty_query_is_refused(policy: Policy) -> None:
    with pytest.raises(InputError, match="found an empty one"):
        policy.with_query("  ")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kind: DeschedulerPolicy", "maxNoOfPodsToEvictPerNod: 2", "unknown field 'maxNoOfPodsToEvictPerNod'"),
        ("descheduler/v1alpha2", "descheduler/v1alpha1", "wanted a descheduler policy of descheduler/v1alpha2"),
        ("source: Prometheus\n          #", "source: KubernetesMetrics\n          #", "KubernetesMetrics"),
        ("enabled: [LowNodeUtilization]", "enabled: []", "found 0"),
        ("MetricResource: 10", "MetricResource: 110", "within 0 to 100, found 110"),
        ("MetricResource: 10", "cpu: 10", "wanted targetThresholds with MetricResource alone"),
        ("url: http://prometheus.monitoring.svc:9090", "url: ''", "wanted metricsProviders with the URL"),
        ("useDeviationThresholds: true", "useDeviationThresholds: false", ""),
        ("node: 2", "node: many", "wanted node as a whole number"),
        ("apiVersion", "a: [", "found no YAML"),
    ],
    ids=["typo", "version", "source", "disabled", "range", "resource", "url", "absolute", "limit", "yaml"],
)
def test_policy_that_would_not_work_is_named(text: str, old: str, new: str, message: str) -> None:
    assert old in text
    edited = text.replace(old, new, 1)
    if not message:
        assert read_policy(edited).deviation is False
        return
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        read_policy(edited)


def test_absolute_thresholds_must_be_in_order(text: str) -> None:
    edited = text.replace("useDeviationThresholds: true", "useDeviationThresholds: false").replace(
        "MetricResource: 0", "MetricResource: 60"
    )
    with pytest.raises(InputError, match="found 60 and 10"):
        read_policy(edited)
