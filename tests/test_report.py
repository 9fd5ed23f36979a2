import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from example_run import example_experiment

from labkit import report, results
from labkit.errors import ResultError

ALGORITHMS = (
    "none", "weighted_average", "ideal_point_positive_distance", "linear_amplified_ippd_k1", "linear_amplified_ippd_k3",
    "linear_amplified_ippd_k3", "oracle",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made experiment with its report."""
    path = tmp_path_factory.mktemp("results") / "made"
    example_experiment(path, algorithms=ALGORITHMS, scenarios=("hot", "churny"), seeds=3)
    report.write(path)
    return path


class Page(HTMLParser):
    """The parts of a page that a test looks at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "img":
            assert values.get("alt")
            self.images.append(values["src"] or "")
        if tag == "a":
            self.links.append(values["href"] or "")
        if tag not in ("img", "meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_well_formed_and_needs_nothing_else(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert len(page.images) >= 10
    for source in page.images:
        assert base64.b64decode(source.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
    assert not re.search(r'(src|href)="(https?:)?//', text)
    assert "<script" not in text


def test_links_of_the_report_lead_to_what_lies_beside_it(folder: Path) -> None:
    for link in Page((folder / "report.html").read_text()).links:
        assert (folder / link).exists(), link


def test_the_report_says_question_answer_and_controls(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    assert "<h1>Does moving VMs help?</h1>" in text
    assert re.search(r'id="answer">\s*<p>By hot spots, linear_amplified_ippd_k3 had the best mean', text)
    assert "linear_amplified_ippd_k3 (again) equals linear_amplified_ippd_k3" in text
    assert "linear_amplified_ippd_k1 equals ideal_point_positive_distance" in text


def test_the_controls_come_out_right(folder: Path) -> None:
    state, runs = results.read_experiment(folder)
    found = report.controls(report.Findings.of(runs, state["metrics"], state["baseline"]))
    assert {name: good for name, good, _ in found} == {
        "linear_amplified_ippd_k3 (again) equals linear_amplified_ippd_k3": True,
        "linear_amplified_ippd_k1 equals ideal_point_positive_distance": True,
        "oracle is the good end": True,
        "none is the bad end": True,
    }


@pytest.mark.slow
def test_a_broken_control_is_shouted_at_the_top(tmp_path: Path) -> None:
    example_experiment(tmp_path, algorithms=ALGORITHMS, seeds=4)
    assert 'role="alert"' not in report.write(tmp_path).read_text()
    _, runs = results.read_experiment(tmp_path)
    again = runs["label"].str.endswith("(again)")
    broken = runs.assign(hotspot_seconds=runs["hotspot_seconds"].where(~again, runs["hotspot_seconds"] + 900.0))
    results.write_table(tmp_path / results.RUNS_FILE, broken)
    text = report.write(tmp_path).read_text()
    assert "A control failed: linear_amplified_ippd_k3 (again) equals linear_amplified_ippd_k3" in text
    assert text.index('role="alert"') < text.index('id="figures"')


@pytest.mark.slow
def test_enough_runs_end_in_a_table_from_goal_to_choice(tmp_path: Path) -> None:
    example_experiment(tmp_path, algorithms=ALGORITHMS[1:], scenarios=("hot", "churny"), seeds=3)
    text = report.write(tmp_path).read_text()
    assert re.search(r"<td>fewest migrations</td><td>\w+</td>", text)
    example_experiment(tmp_path, algorithms=ALGORITHMS[1:], seeds=1)
    assert 'id="choices"' not in report.write(tmp_path).read_text()


def test_a_report_knows_when_it_is_out_of_date(tmp_path: Path) -> None:
    example_experiment(tmp_path, algorithms=("none", "oracle"), seeds=1)
    assert not report.is_current(tmp_path)
    report.write(tmp_path)
    assert report.is_current(tmp_path)
    _, runs = results.read_experiment(tmp_path)
    results.write_table(tmp_path / results.RUNS_FILE, runs.assign(key="another"))
    assert not report.is_current(tmp_path)


def test_a_report_with_another_question_or_baseline_is_out_of_date(tmp_path: Path) -> None:
    example_experiment(tmp_path, algorithms=("none", "oracle"), seeds=1)
    report.write(tmp_path)
    asked = json.loads((tmp_path / results.EXPERIMENT_FILE).read_text())
    for change in ({"question": "Or does it not?"}, {"baseline": "oracle"}, {"metrics": ["migrations"]}):
        change_state(tmp_path, **change)
        assert not report.is_current(tmp_path)
        change_state(tmp_path, **asked)
        assert report.is_current(tmp_path)


def change_state(folder: Path, **changes: object) -> None:
    """Write other things into ``experiment.json``."""
    path = folder / results.EXPERIMENT_FILE
    results.write_json(path, json.loads(path.read_text()) | changes)


def test_a_part_of_a_matrix_is_said_to_be_a_part(folder: Path, tmp_path: Path) -> None:
    assert "· 42 runs ·" in (folder / "report.html").read_text()
    example_experiment(tmp_path, algorithms=("none", "oracle"), seeds=1)
    change_state(tmp_path, runs=5)
    assert "2 of 5 runs have succeeded" in report.write(tmp_path).read_text()


def test_the_ends_of_the_scale_that_took_part_are_named(folder: Path) -> None:
    assert "None and oracle are ends of the scale, not choices." in (folder / "report.html").read_text()


def test_single_runs_are_shown_with_everything_that_can_be_seen_of_a_run(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    for title in ("Scores", "CPU use", "CPU use, node by node", "Migrations", "Before and after",
                  "Evictions and migrations", "Placement"):  # fmt: skip
        assert f'alt="{title} of none-' in text


def test_runs_shown_side_by_side_met_the_same_load(folder: Path) -> None:
    state, runs = results.read_experiment(folder)
    found = report.Findings.of(runs, state["metrics"], state["baseline"])
    shown = report._telling_runs(runs, found)
    assert [row["treatment"] for row in shown] == ["none", "linear_amplified_ippd_k3"]
    assert len({(row["scenario"], row["seed"]) for row in shown}) == 1


def test_the_runs_shown_are_those_nearest_to_the_mean_difference(tmp_path: Path) -> None:
    example_experiment(tmp_path, algorithms=("none", "linear_amplified_ippd_k3"), seeds=3)
    state, runs = results.read_experiment(tmp_path)
    by = {"none": {1: 900.0, 2: 1000.0, 3: 5000.0}, "linear_amplified_ippd_k3": {1: 890.0, 2: 100.0, 3: 3000.0}}
    changed = runs.assign(
        hotspot_seconds=[by[name][seed] for name, seed in zip(runs["label"], runs["seed"], strict=True)]
    )
    shown = report._telling_runs(changed, report.Findings.of(changed, state["metrics"], state["baseline"]))
    assert {row["seed"] for row in shown} == {2}


def test_doing_nothing_may_be_best_by_what_migrations_cost(tmp_path: Path) -> None:
    example_experiment(tmp_path, algorithms=ALGORITHMS, seeds=3)
    change_state(tmp_path, metrics=["downtime_seconds"])
    text = report.write(tmp_path).read_text()
    assert 'role="alert"' not in text
    assert "none is the bad end" not in text


def test_versions_are_those_of_every_run_and_the_first_start_is_the_first(tmp_path: Path) -> None:
    example_experiment(tmp_path, algorithms=("none", "oracle"), seeds=1)
    for run, changes in {"none": {"started_at": "2026-02-02T00:00:00+00:00", "git_commit": "f00"},
                         "oracle": {"git_commit": "ba7"}}.items():  # fmt: skip
        path = tmp_path / f"{run}-hot-s1-sim" / results.RUN_FILE
        results.write_json(path, json.loads(path.read_text()) | changes)
    text = report.write(tmp_path).read_text()
    assert "<td>f00, ba7</td>" in text
    assert "<td>2026-01-01T00:00:00+00:00 to 2026-02-02T00:00:00+00:00</td>" in text


def test_the_command_that_repeats_a_run_names_the_backend_that_was_used(tmp_path: Path) -> None:
    example_experiment(tmp_path, algorithms=("none", "oracle"), seeds=1)
    change_state(tmp_path, backend="kind", tempo=5)
    assert "labkit experiment made.yaml --backend kind --tempo 5" in report.write(tmp_path).read_text()


def test_failed_runs_are_in_the_report_with_their_error(tmp_path: Path) -> None:
    records = example_experiment(tmp_path, algorithms=("none", "oracle"), seeds=2)
    failed = records[0].failed("Traceback\nValueError: <the descheduler> died")
    results.write_table(tmp_path / results.RUNS_FILE, results.collect([failed, *records[1:]]))
    text = report.write(tmp_path).read_text()
    assert "ValueError: &lt;the descheduler&gt; died" in text
    assert "Runs that failed" in text


def test_a_metric_that_says_nothing_about_someone_is_told(tmp_path: Path) -> None:
    example_experiment(tmp_path, algorithms=("none", "oracle"), seeds=2)
    _, runs = results.read_experiment(tmp_path)
    none = runs["algorithm"] == "none"
    results.write_table(
        tmp_path / results.RUNS_FILE,
        runs.assign(cycles=runs["cycles"].mask(none, 0), time_to_converge_seconds=runs["lab_seconds"].mask(none)),
    )
    change_state(tmp_path, metrics=["hotspot_seconds", "time_to_converge_seconds"])
    text = report.write(tmp_path).read_text()
    assert "Time to converge is not defined for none." in text
    assert "differences are to oracle here" in text


def test_what_the_numbers_of_a_run_suffer_from_is_told(tmp_path: Path) -> None:
    example_experiment(tmp_path, algorithms=("none", "oracle"), seeds=1)
    assert 'id="notes"' not in report.write(tmp_path).read_text()
    path = tmp_path / "none-hot-s1-sim" / results.RUN_FILE
    results.write_json(path, json.loads(path.read_text()) | {"notes": ["3 of 17 <cycles> were missed"]})
    assert ">none-hot-s1-sim</a>: 3 of 17 &lt;cycles&gt; were missed</li>" in report.write(tmp_path).read_text()


def test_a_folder_without_an_experiment_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"wanted an experiment's folder .* found none in"):
        report.write(tmp_path)


@pytest.mark.slow
def test_a_real_browser_shows_every_image_without_a_complaint(folder: Path, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("not run: no Chromium on this machine")
    # The page has no script of its own; a copy with one reports what the browser made of it.
    probe = (
        "<script>addEventListener('load', () => { const images = [...document.images];"
        "document.title = JSON.stringify({all: images.length, shown: images.filter(i => i.complete && i.naturalWidth"
        " > 100).length, wide: document.documentElement.scrollWidth > innerWidth}); });</script></body>"
    )
    copy = folder / "probe.html"
    copy.write_text((folder / "report.html").read_text().replace("</body>", probe))
    common = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
              f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,900"]  # fmt: skip
    dump = subprocess.run(
        [*common, "--dump-dom", copy.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    copy.unlink()
    title = re.search(r"<title>(\{.*?\})</title>", dump.stdout)
    assert title is not None
    seen = json.loads(title[1].replace("&quot;", '"'))
    assert seen == {"all": seen["all"], "shown": seen["all"], "wide": False}
    assert seen["all"] >= 10
    assert "CONSOLE" not in dump.stderr, dump.stderr
    shot = tmp_path / "report.png"
    subprocess.run([*common, f"--screenshot={shot}", (folder / "report.html").as_uri()],
                   capture_output=True, timeout=120, check=True)  # fmt: skip
    assert shot.stat().st_size > 20_000
