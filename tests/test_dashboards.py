import json
import re
from pathlib import Path

import promql_parser
import pytest

from labkit.analysis import promql
from labkit.datafiles import data_path
from labkit.errors import InputError
from tools import grafana_dashboards

BOARDS = sorted(data_path("k8s", "dashboards").glob("*.json"))


def test_dashboards_are_what_the_generator_writes() -> None:
    assert grafana_dashboards.main(["--check"]) == 0


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_every_query_is_promql_and_every_panel_says_what_it_shows(path: Path) -> None:
    board = json.loads(path.read_text())
    queries = grafana_dashboards.queries(board)
    assert queries
    for text in queries:
        promql_parser.parse(grafana_dashboards.filled(text))
    for panel in board["panels"]:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["datasource"]["uid"] == "${datasource}"


def test_panels_do_not_overlap() -> None:
    for path in BOARDS:
        cells: set[tuple[int, int]] = set()
        for panel in json.loads(path.read_text())["panels"]:
            at = panel["gridPos"]
            mine = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
            assert not mine & cells, (path.name, panel["title"])
            cells |= mine


def test_the_algorithms_are_all_on_their_dashboard() -> None:
    board = json.loads(data_path("k8s", "dashboards", "algorithms.json").read_text())
    records = grafana_dashboards.queries(board)
    assert len(records) == 19
    assert all(re.fullmatch(r"descheduler:node:\w+:avg1m", record) for record in records)


@pytest.mark.parametrize("name", promql.EXPRESSIONS)
def test_metrics_as_promql_parse(name: str) -> None:
    text = promql.expression(name, window="1h", step="30s", step_seconds="30")
    assert "{window}" not in text
    promql_parser.parse(text)


def test_an_unknown_metric_is_an_error() -> None:
    with pytest.raises(InputError, match="found 'speed'"):
        promql.expression("speed")


def test_every_variable_of_a_query_is_one_of_its_dashboard() -> None:
    for path in BOARDS:
        board = json.loads(path.read_text())
        known = {variable["name"] for variable in board["templating"]["list"]}
        used = {
            name
            for text in [*grafana_dashboards.queries(board), *(panel.get("timeShift", "") for panel in board["panels"])]
            for name in re.findall(r"\$\{?([a-z_]\w*)", text)
        }
        assert used | {"datasource"} == (known | {"__range"} if "__range" in used else known), path.name


def test_queries_of_a_panel_have_letters_of_their_own() -> None:
    for path in BOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            letters = [target["refId"] for target in panel["targets"]]
            assert all(letters)
            assert len(set(letters)) == len(letters)


def test_each_number_of_a_run_stands_beside_that_of_an_earlier_one() -> None:
    panels = json.loads(data_path("k8s", "dashboards", "run-comparison.json").read_text())["panels"]
    later = [panel["targets"] for panel in panels if "timeShift" not in panel]
    earlier = [panel["targets"] for panel in panels if panel.get("timeShift") == "$earlier"]
    assert later == earlier
