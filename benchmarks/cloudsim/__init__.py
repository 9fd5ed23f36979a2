"""The same number of VM updates with CloudSim Plus, for comparison; needs Java 17 and Maven.

CloudSim Plus does the hosts' and VMs' part of the work (no metrics, rules, descheduler or migrations), the twin all of
it. Each is timed without its start-up: ``simulation.start()`` there, ``labkit.sim.run`` here, wall seconds of both.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks._rows import Row
from benchmarks.twin import large, play
from labkit.errors import ToolError

TITLE = "CloudSim Plus 8.5.7 and the twin, one hour of 15 s steps, wall time"
SOURCES = Path(__file__).resolve().parent
SIZES = ((100, 2_000), (1_000, 20_000))
RATIO_GOAL = 50.0
SECONDS = 3600


def measure() -> list[Row]:
    """Measure both at two sizes, and their ratio."""
    missing = [program for program in ("java", "mvn") if shutil.which(program) is None]
    if missing:
        raise ToolError(f"wanted java and mvn on PATH, found no {missing[0]}; install a JDK 17 and Maven to compare")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        classpath = build(Path(folder))
        for hosts, vms in SIZES:
            theirs = cloudsim_seconds(classpath, hosts, vms)
            scenario = large(hosts, vms)
            play(scenario)
            start = time.perf_counter()
            play(scenario)
            ours = time.perf_counter() - start
            size = f"{hosts:,} nodes, {vms:,} VMs"
            rows.append(Row(f"CloudSim Plus, {size}", (theirs,)))
            rows.append(Row(f"twin, {size}", (ours,)))
            rows.append(Row(f"  times as long, {size}", (theirs / ours,), unit="×", goal=RATIO_GOAL))
    return rows


def build(folder: Path) -> str:
    """Compile the program and return its class path."""
    shutil.copytree(SOURCES, folder / "program", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    goals = ["compile", "dependency:build-classpath", "-Dmdep.outputFile=classpath.txt"]
    done = subprocess.run(
        ["mvn", "--batch-mode", "--quiet", *goals], cwd=folder / "program", capture_output=True, text=True
    )
    if done.returncode != 0:
        last = (done.stdout + done.stderr).strip().splitlines()[-5:]
        raise ToolError(f"wanted Maven to build {SOURCES}, found: {' '.join(last)}")
    dependencies = (folder / "program" / "classpath.txt").read_text(encoding="utf-8").strip()
    return f"{folder / 'program' / 'target' / 'classes'}:{dependencies}"


def cloudsim_seconds(classpath: str, hosts: int, vms: int) -> float:
    """Run the program once and return what it timed."""
    command = ["java", "-Xmx4g", "-cp", classpath, "labkit.FluctuatingVms", str(hosts), str(vms), str(SECONDS)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise ToolError(f"wanted CloudSim Plus to run, found: {done.stderr.strip().splitlines()[-1:]}")
    return float(done.stdout.strip().splitlines()[-1])
