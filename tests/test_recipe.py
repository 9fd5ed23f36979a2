import json

import pytest
import yaml

from labkit import promql, scoring
from labkit.cli import main
from labkit.errors import InputError
from labkit.policy import read_policy
from labkit.scoring import recipe


@pytest.mark.parametrize("name", [each.name for each in scoring.BUILT_IN])
def test_the_rules_of_an_algorithm_need_nothing_but_what_a_cluster_measures(name: str) -> None:
    group = promql.parse_rules(recipe.rules(name))
    assert scoring.get(name).record in group.records
    assert recipe.inputs(name)
    assert not [each for each in recipe.inputs(name) if ":" in each]


def test_the_policy_asks_for_the_record_at_the_wanted_thresholds() -> None:
    policy = read_policy(recipe.policy("max_metric", thresholds="5:20"))
    assert (policy.query, policy.low, policy.high) == ("descheduler:node:max_metric:avg1m", 5.0, 20.0)
    assert policy.evictions_total == 5
    with pytest.raises(InputError, match="wanted the name of an algorithm"):
        recipe.policy("max_metrics_of_all")


def test_show_prints_two_documents_that_can_be_applied(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["algorithms", "show", "euclidean_distance"]) == 0
    policy, rules = yaml.safe_load_all(capsys.readouterr().out)
    assert policy["kind"] == "DeschedulerPolicy"
    assert rules["kind"] == "PrometheusRule"
    assert main(["algorithms", "show", "pareto_front", "--json"]) == 0
    assert "lab_node_score" in json.loads(capsys.readouterr().out)["inputs"]
