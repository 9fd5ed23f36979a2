"""The repository keeps its promises: what the documents name exists, and what exists is named."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from labkit.cli import VERBS, build_parser, verb_module

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

QUICKSTART_COMMANDS = [
    "pip install -r requirements.txt",
    "./setup-kind-env.sh",
    "./test-closed-loop.sh",
    "kubectl logs -n kube-descheduler deployment/descheduler -f",
    "kubectl logs -n kube-descheduler deployment/descheduler | grep -i evict",
    "kubectl get vm -w",
    "kubectl get pods -w",
    "kubectl get vm -o wide",
    "kubectl apply -f k8s/descheduler-policy.yaml",
    "kubectl rollout restart -n kube-descheduler deployment/descheduler",
    "kubectl get vm",
    "kubectl apply -f k8s/example-vms.yaml",
    "kubectl describe vm vm-small-1",
    "kubectl get pods -n monitoring",
    "kubectl logs -n monitoring -l app=metrics-exporter",
    "curl http://localhost:9090/-/healthy",
    "curl http://localhost:8001/health",
    "kubectl port-forward -n monitoring svc/prometheus 9090:9090",
    "kubectl port-forward -n monitoring svc/metrics-exporter 8001:8000",
    "kubectl get prometheusrules -n monitoring",
    "kind delete cluster --name node-classifier-sim",
]


@pytest.mark.parametrize("command", QUICKSTART_COMMANDS)
def test_quickstart_has_every_command_as_it_stands(command: str) -> None:
    assert command in (ROOT / "docs" / "quickstart.md").read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_of_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", document.read_text()):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_readme_names_every_document() -> None:
    readme = (ROOT / "README.md").read_text()
    missing = [path.name for path in (ROOT / "docs").glob("*.md") if f"docs/{path.name}" not in readme]
    assert missing == []


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    assert verb_module(verb).HELP
    assert verb in build_parser().format_help()


def test_every_make_target_is_in_its_help() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == set(re.findall(r"^## ([a-z-]+):", makefile, re.MULTILINE))


def test_notebooks_are_committed_without_outputs() -> None:
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells), path.name


def test_no_result_is_committed() -> None:
    tracked = subprocess.run(["git", "ls-files", "results"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert tracked.stdout.split() in ([], ["results/README.md"])


def test_no_address_of_a_registry_and_no_path_of_a_machine_is_committed() -> None:
    names = [
        "pypi" + ".org",
        "python" + "hosted",
        ".".join(("proxy", "golang", "org")),
        "registry.npm" + "js",
        "/" + "root/",
        "/" + "home/",
    ]
    found = subprocess.run(
        ["git", "grep", "-lIE", "|".join(re.escape(name) for name in names), "--", ":!*.sum"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.stdout == ""
