import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from labkit.cluster import tools
from labkit.errors import InputError, ToolError
from services.rule_loader import promtool
from services.rule_loader.app import WebhookServer
from services.rule_loader.loader import RuleFolder
from services.rule_loader.logic import duplicate, fault, file_name, render_config, review, rule_text

TEMPLATE = """
global: {scrape_interval: 15s, evaluation_interval: 15s, external_labels: {lab: mine}}
scrape_configs:
  - job_name: exporter
    honor_labels: true
    static_configs: [{targets: [metrics-exporter.monitoring.svc:8000]}]
  - job_name: slow
    scrape_interval: 1m
    static_configs: [{targets: [slow:1]}]
"""


def rules(name: str = "mine", namespace: str = "monitoring", **records: str) -> dict[str, Any]:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"groups": [{"name": "g", "rules": [{"record": k, "expr": v} for k, v in records.items()]}]},
    }


@pytest.fixture
def real_promtool(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        found = tools.find("promtool")
    except ToolError as error:
        pytest.skip(f"needs promtool: {error}")
    monkeypatch.setenv("PATH", str(found.parent), prepend=":")


def nothing_wrong(text: str) -> None:
    return None


# --- configuration ----------------------------------------------------------------------------------


def test_config_takes_the_labs_intervals_and_keeps_the_rest() -> None:
    text = render_config(TEMPLATE, scrape_interval="1s", evaluation_interval="2s", tempo=15)
    config = yaml.safe_load(text)
    assert config["global"] == {
        "scrape_interval": "1s",
        "scrape_timeout": "1s",
        "evaluation_interval": "2s",
        "external_labels": {"lab": "mine"},
    }
    assert config["scrape_configs"][0]["honor_labels"] is True
    assert config["scrape_configs"][1]["scrape_interval"] == "4s"
    assert config["rule_files"] == ["rules/*.yaml"]


def test_scrape_timeout_is_at_most_prometheus_own() -> None:
    text = render_config(TEMPLATE, scrape_interval="15s", evaluation_interval="15s", tempo=1)
    assert yaml.safe_load(text)["global"]["scrape_timeout"] == "10s"


@pytest.mark.parametrize("template", ["[1, 2]", "a: [", ""], ids=["list", "no yaml", "empty"])
def test_config_that_is_none_is_refused(template: str) -> None:
    with pytest.raises(InputError, match="wanted Prometheus' configuration"):
        render_config(template, scrape_interval="1s", evaluation_interval="1s", tempo=1)


def test_the_labs_own_template_names_what_the_descheduler_needs() -> None:
    from labkit.datafiles import data_path

    config_map = yaml.safe_load(data_path("k8s", "prometheus", "configmap.yaml").read_text())
    text = render_config(config_map["data"]["prometheus.yml"], scrape_interval="1s", evaluation_interval="1s", tempo=15)
    jobs = {job["job_name"]: job for job in yaml.safe_load(text)["scrape_configs"]}
    # Without honor_labels `instance` would be the exporter's address, and no score would be any node's.
    assert jobs["metrics-exporter"]["honor_labels"] is True
    assert jobs["scorer"]["honor_labels"] is True


# --- rule files -------------------------------------------------------------------------------------


def test_rule_file_is_rendered_at_the_labs_tempo() -> None:
    obj = rules(**{"a:b:rate1m": "rate(node_cpu_seconds_total[1m])"})
    obj["spec"]["groups"][0]["interval"] = "30s"
    group = yaml.safe_load(rule_text(obj, tempo=15))["groups"][0]
    assert group["interval"] == "2s"
    assert group["rules"] == [{"record": "a:b:rate1m", "expr": "rate(node_cpu_seconds_total[4s])"}]


def test_expressions_stay_as_written_at_tempo_1() -> None:
    expr = "max by (instance) (\n  up  # who is there\n)\n"
    assert yaml.safe_load(rule_text(rules(a=expr), tempo=1))["groups"][0]["rules"][0]["expr"] == expr


def test_object_without_groups_is_an_empty_file() -> None:
    assert yaml.safe_load(rule_text({"metadata": {"name": "a"}, "spec": {}}, tempo=15)) == {"groups": []}


def test_file_names_of_different_objects_differ() -> None:
    names = {file_name(rules(name, namespace)) for namespace, name in (("a", "b-c"), ("a-b", "c"), ("a", "b.c"))}
    assert len(names) == 3


# --- what is wrong with rules -----------------------------------------------------------------------


@pytest.mark.usefixtures("real_promtool")
@pytest.mark.parametrize("tempo", [1, 15])
@pytest.mark.parametrize(
    ("obj", "message"),
    [
        (rules(a="sum(rate(foo[1m])"), "unclosed left parenthesis"),
        (rules(a="rate(foo)"), "expected type range vector in call to function"),
        (rules(**{"not a name": "up"}), ""),
        (
            rules(a="up") | {"spec": {"groups": [{"name": "g", "rules": [{"record": "a", "expr": "up", "odd": 1}]}]}},
            "odd",
        ),
    ],
    ids=["parse", "type", "utf8 name", "field"],
)
def test_promtool_tells_what_is_wrong(obj: dict[str, Any], message: str, tempo: int) -> None:
    found = fault(obj, [], tempo=tempo, check=promtool.check)
    if not message:
        assert found is None  # names in UTF-8 are allowed since Prometheus 3
        return
    assert found is not None
    assert found.startswith("promtool: ")
    assert message in found
    assert "/tmp" not in found


@pytest.mark.usefixtures("real_promtool")
@pytest.mark.parametrize("tempo", [1, 15])
def test_the_labs_own_rules_pass(tempo: int) -> None:
    from labkit.datafiles import data_path

    obj = yaml.safe_load(data_path("rules", "scores.yaml").read_text())
    assert fault(obj, [], tempo=tempo, check=promtool.check) is None


def test_window_that_vanishes_at_this_tempo_is_named() -> None:
    found = fault(rules(a="rate(foo[5ms])"), [], tempo=15, check=nothing_wrong)
    assert found is not None
    assert "divided by tempo 15" in found
    assert fault(rules(a="rate(foo[5ms])"), [], tempo=1, check=nothing_wrong) is None


def test_missing_promtool_is_an_error_not_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ToolError, match="wanted promtool"):
        promtool.check("groups: []\n")


def test_a_record_of_another_object_is_refused() -> None:
    found = duplicate(rules("mine", a="up"), [rules("theirs", b="up"), rules("first", "default", a="1")])
    assert found is not None
    assert "found a again, already written by PrometheusRule default/first" in found


def test_a_record_twice_in_one_object_is_refused() -> None:
    obj = rules(a="up")
    obj["spec"]["groups"].append({"name": "h", "rules": [{"record": "a", "expr": "up"}]})
    assert "monitoring/mine itself" in (duplicate(obj, []) or "")


def test_the_same_record_with_other_labels_is_another_series() -> None:
    obj = rules(a="up")
    obj["spec"]["groups"].append({"name": "h", "rules": [{"record": "a", "expr": "up", "labels": {"form": "x"}}]})
    obj["spec"]["groups"].append({"name": "i", "labels": {"form": "y"}, "rules": [{"record": "a", "expr": "up"}]})
    assert duplicate(obj, []) is None


def test_an_object_does_not_collide_with_its_former_self_nor_do_alerts() -> None:
    obj = rules(a="up")
    obj["spec"]["groups"][0]["rules"] += [{"alert": "x", "expr": "up"}, {"alert": "x", "expr": "up == 0"}]
    assert duplicate(obj, [rules(a="1")]) is None


# --- reviews ----------------------------------------------------------------------------------------


def asked(obj: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u1", "object": obj}}


def test_review_allows_or_gives_the_reason() -> None:
    fine = review(asked(rules(a="up")), [], tempo=1, check=nothing_wrong)
    assert fine["response"] == {"uid": "u1", "allowed": True}
    refused = review(asked(rules(a="up")), [], tempo=1, check=lambda text: "promtool: no")
    assert refused["response"] == {
        "uid": "u1",
        "allowed": False,
        "status": {"code": 422, "reason": "Invalid", "message": "promtool: no"},
    }


# --- the folder -------------------------------------------------------------------------------------


class Checker:
    """Refuses texts that hold the word broken; counts what it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.told: list[tuple[str, str]] = []

    def check(self, text: str) -> str | None:
        self.asked += 1
        return "promtool: broken" if "broken" in text else None

    def report(self, obj: Any, reason: str, message: str) -> None:
        self.told.append((obj["metadata"]["name"], reason))


def folder_of(path: Path, checker: Checker, tempo: int = 1) -> RuleFolder:
    return RuleFolder(path, tempo, checker.check, checker.report)


def records(path: Path) -> dict[str, list[str]]:
    return {
        file.name: [rule["expr"] for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]
        for file in sorted((path / "rules").iterdir())
    }


def test_folder_follows_the_objects(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, Checker())
    folder.sync([rules("one", a="1"), rules("two", b="2")])
    assert records(tmp_path) == {"monitoring_one.yaml": ["1"], "monitoring_two.yaml": ["2"]}
    folder.sync([rules("two", b="3")])
    assert records(tmp_path) == {"monitoring_two.yaml": ["3"]}


def test_unchanged_objects_are_neither_checked_nor_written_again(tmp_path: Path) -> None:
    checker = Checker()
    folder_of(tmp_path, checker).sync([rules(a="1")])
    file = tmp_path / "rules" / "monitoring_mine.yaml"
    before = file.stat().st_ino
    folder_of(tmp_path, checker).sync([rules(a="1")])
    assert (checker.asked, file.stat().st_ino) == (1, before)


def test_broken_object_leaves_its_former_rules_and_all_others(tmp_path: Path) -> None:
    checker = Checker()
    folder = folder_of(tmp_path, checker)
    folder.sync([rules("one", a="1"), rules("two", b="2")])
    for _ in range(2):
        folder.sync([rules("one", a="broken"), rules("two", b="3"), rules("new", c="broken")])
    assert records(tmp_path) == {"monitoring_one.yaml": ["1"], "monitoring_two.yaml": ["3"]}
    assert checker.told == [
        ("one", "RulesLoaded"),
        ("two", "RulesLoaded"),
        ("one", "RulesRefused"),
        ("two", "RulesLoaded"),
        ("new", "RulesRefused"),
    ]
    folder.sync([rules("one", a="4"), rules("two", b="3")])
    assert records(tmp_path)["monitoring_one.yaml"] == ["4"]


def test_object_that_cannot_be_scaled_is_reported_once(tmp_path: Path) -> None:
    checker = Checker()
    folder = folder_of(tmp_path, checker, tempo=15)
    for _ in range(2):
        folder.sync([rules(a="rate(x[1ms])")])
    assert checker.told == [("mine", "RulesRefused")]
    assert records(tmp_path) == {}


def test_config_is_written_from_the_environment(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, Checker(), tempo=15)
    folder.write_config(TEMPLATE, {"LAB_SCRAPE_INTERVAL": "1s", "LAB_EVALUATION_INTERVAL": "1s"})
    assert yaml.safe_load((tmp_path / "prometheus.yml").read_text())["global"]["scrape_interval"] == "1s"
    assert [file.name for file in tmp_path.iterdir()] == ["prometheus.yml"]


# --- the server -------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[WebhookServer]:
    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if request["request"]["object"] == "trouble":
            raise ToolError("no promtool")
        return {"response": request["request"]["uid"]}

    served = WebhookServer(("127.0.0.1", 0), answer, None)
    threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield served
    served.shutdown()
    served.server_close()


def ask(server: WebhookServer, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("GET", "/healthz", b"", 200, b"ok"),
        ("GET", "/other", b"", 404, b"wanted"),
        ("POST", "/validate?timeout=10s", json.dumps(asked({})).encode(), 200, b"u1"),
        ("POST", "/validate", b"no json", 400, b"wanted an AdmissionReview"),
        ("POST", "/validate", b"{}", 400, b"wanted an AdmissionReview"),
        ("POST", "/validate", b"", 413, b"found 0"),
        ("POST", "/validate", json.dumps({"request": {"object": "trouble"}}).encode(), 500, b"no promtool"),
        ("POST", "/other", b"{}", 404, b"wanted"),
    ],
    ids=["health", "unknown page", "review", "no json", "no request", "empty", "failure", "unknown post"],
)
def test_server_answers(server: WebhookServer, method: str, path: str, body: bytes, status: int, text: bytes) -> None:
    found = ask(server, method, path, body)
    assert found[0] == status
    assert text in found[1]


def test_a_silent_client_blocks_nobody(server: WebhookServer) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port)):
        assert ask(server, "GET", "/healthz") == (200, b"ok\n")
