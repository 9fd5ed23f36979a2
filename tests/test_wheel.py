"""The installed package: what a wheel brings works without the checkout."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
PARTS = ("labkit", "services", "experiments", "k8s", "notebooks", "rules", "tools")
FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")


@pytest.mark.slow
def test_a_wheel_has_all_files_and_finds_them(tmp_path: Path) -> None:
    source, elsewhere = tmp_path / "source", tmp_path / "elsewhere"
    for part in PARTS:
        shutil.copytree(CHECKOUT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(CHECKOUT / name, source / name)
    elsewhere.mkdir()
    _run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source)
    [wheel] = tmp_path.glob("labkit-*.whl")

    venv.create(tmp_path / "environment", with_pip=False)
    python = tmp_path / "environment" / "bin" / "python"
    # What labkit needs comes from the environment of the tests; as a path, so that its own editable install does not.
    folders = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    here = Path(_run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (here / "dependencies.pth").write_text("\n".join(sorted(folders)))
    _run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", wheel)

    shutil.rmtree(source)
    labkit = python.with_name("labkit")
    assert "experiments" not in {path.name for path in elsewhere.iterdir()}
    names = {entry["name"] for entry in json.loads(_run(labkit, "algorithms", "--json", cwd=elsewhere))}
    assert "linear_amplified_ippd_k3" in names
    summary = json.loads(
        _run(
            labkit,
            "run",
            "--backend",
            "sim",
            "--scenario",
            "quickstart",
            "--algorithm",
            "weighted_average",
            "--seed",
            "1",
            "--duration",
            "2m",
            "--out",
            "out",
            "--json",
            cwd=elsewhere,
        )
    )
    assert summary["lab_seconds"] == 120.0
    found = _run(
        python, "-c",
        "from labkit.datafiles import data_path as p;"
        "print(*(p(*n).is_file() for n in [('tools','go.mod'),('k8s','kwok-nodes.yaml'),('rules','scores.yaml')]))",
        cwd=elsewhere,
    )  # fmt: skip
    assert found.split() == ["True"] * 3


def _run(*command: object, cwd: Path | None = None) -> str:
    answer = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout
