"""The same number of VM updates with CloudSim Plus, for comparison; needs Java 17 and Maven.

CloudSim Plus does the hosts' and VMs' part of the work (no metrics, rules, descheduler or migrations), the twin all of
it, for as many nodes, VMs and steps. Each is timed without its start-up (``simulation.start()`` there,
``labkit.sim.run`` here) in processor seconds of the thread that does it, and each a second time in the same process,
when everything is compiled and cached; Java's collection of garbage and compilation run in other threads and do not
count.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks._rows import Row
from benchmarks.twin import STEPS_PER_HOUR, large, play, repeated
from labkit.errors import ToolError

TITLE = "CloudSim Plus 8.5.7 and the twin, one hour of 15 s steps, processor time, both warm"
SOURCES = Path(__file__).resolve().parent
SIZES = ((5, 50), (100, 2_000), (400, 8_000), (1_000, 20_000))
RATIO_GOAL = 50.0
SECONDS = 3600


def measure() -> list[Row]:
    """Measure both at several sizes, and their ratio."""
    missing = [program for program in ("java", "mvn") if shutil.which(program) is None]
    if missing:
        raise ToolError(f"wanted java and mvn on PATH, found no {missing[0]}; install a JDK 17 and Maven to compare")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        classpath = build(Path(folder))
        for hosts, vms in SIZES:
            (cold, asked), (warm, _) = cloudsim_seconds(classpath, hosts, vms, repeats=2)
            (ours,) = repeated(_player(hosts, vms), 1)
            size = f"{hosts:,} nodes, {vms:,} VMs"
            rows.append(Row(f"CloudSim Plus, {size}", (warm,)))
            rows.append(Row("  the first time in its process", (cold,)))
            rows.append(Row("  loads asked for, of all VMs at all steps", (asked / (vms * STEPS_PER_HOUR),), unit="×"))
            rows.append(Row(f"twin, {size}", (ours,)))
            rows.append(Row("  CloudSim Plus takes", (warm / ours,), unit="× as long", goal=RATIO_GOAL))
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


def cloudsim_seconds(classpath: str, hosts: int, vms: int, *, repeats: int) -> list[tuple[float, int]]:
    """Run the program; return the seconds of each repeat and how many loads it asked for."""
    numbers = [str(number) for number in (hosts, vms, SECONDS, repeats)]
    command = ["java", "-Xmx4g", "-cp", classpath, "labkit.FluctuatingVms", *numbers]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise ToolError(f"wanted CloudSim Plus to run, found: {done.stderr.strip().splitlines()[-1:]}")
    lines = [line.split() for line in done.stdout.strip().splitlines()[-repeats:]]
    return [(float(seconds), int(asked)) for seconds, asked in lines]


def _player(hosts: int, vms: int) -> Callable[[], object]:
    scenario = large(hosts, vms)
    return lambda: play(scenario)
