"""Whether this machine can run the lab in containers: what ``labkit doctor --backend kind`` looks at."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from labkit.cluster import toolbuild, tools
from labkit.cluster.config import LabConfig, cache_home, state_home
from labkit.cluster.kind import engine as engines
from labkit.cluster.kind import program
from labkit.cluster.kind.engine import Engine
from labkit.cluster.kind.settings import BASE_VARIABLE, IMAGES, NODE_VARIABLE, OWN_VARIABLES, SERVICES, Settings
from labkit.cluster.machine import Check, check_cores, check_disk, check_memory, check_pages, check_python, check_system
from labkit.cluster.ports import lab_ports, taken_ports
from labkit.errors import ClusterError, LabError, ToolError

ENGINE_GIB: Final = 6.0
"""Disk for the node's image, the lab's images, and the node itself with a copy of them."""
STATE_GIB: Final = 0.5
"""Disk for a lab's own files and logs; what the cluster stores lies with the engine."""
IMAGE_TOOLS: Final = ("prometheus", "promtool", "descheduler", "kwok")
"""Tools that go into images."""
MIN_INOTIFY_INSTANCES: Final = 128
INOTIFY: Final = Path("/proc/sys/fs/inotify/max_user_instances")


def examine(config: LabConfig, *, lab_is_up: bool, environ: Mapping[str, str] = os.environ) -> list[Check]:
    """Look at everything that could be in the way of a lab in containers.

    Parameters
    ----------
    config : LabConfig
        The lab that is wanted.
    lab_is_up : bool
        Whether it runs already; then its ports are rightly taken.
    environ : mapping
        Where engine, kind and images are named.
    """
    checks = [check_system(), check_python()]
    try:
        engine = engines.find(environ)
    except LabError as error:
        found, _, advice = str(error).partition(": ")
        checks.append(Check("container engine", "problem", found, advice))
    else:
        checks += [
            describe_engine(engine),
            check_cgroup(engine),
            *check_images(engine, environ),
        ]
        if engine.store is not None:
            checks.append(check_store(engine.name, engine.store))
    return [
        *checks,
        check_kind(environ),
        check_ports(config.address, lab_is_up=lab_is_up),
        check_cores(),
        check_memory(),
        check_inotify(),
        check_disk(state_home(), STATE_GIB, "disk for labs", "LABKIT_STATE"),
        check_tools(config.tools),
        check_pages(),
    ]


def describe_engine(engine: Engine) -> Check:
    """Say which engine it is."""
    rights = "without root" if engine.rootless else "as root"
    return Check("container engine", "ok", f"{engine.name} {engine.version} {rights} ({engine.program})")


def check_cgroup(engine: Engine) -> Check:
    """Check the version of the control groups: a kubelet refuses the first one, unless it is told not to."""
    if engine.cgroup_version == 2:
        return Check("control groups", "ok", "v2")
    advice = (
        "boot with systemd.unified_cgroup_hierarchy=1, if you can; later versions of Kubernetes will not start on v1"
    )
    return Check("control groups", "note", "v1", advice)


def check_images(engine: Engine, environ: Mapping[str, str]) -> list[Check]:
    """Check that the images of others are here, or say that they will be pulled."""
    try:
        settings = Settings.from_environment(environ)
    except LabError as error:
        found, _, advice = str(error).partition(": ")
        return [Check("images", "problem", found, advice)]
    wanted = {"node image": (settings.node, NODE_VARIABLE)}
    if SERVICES not in settings.own:
        wanted["base image"] = (settings.base, BASE_VARIABLE)
    wanted |= {
        f"own image {name.partition(':')[0]}": (settings.own[name], OWN_VARIABLES[name])
        for name in IMAGES
        if name in settings.own
    }
    checks = []
    for subject, (image, variable) in wanted.items():
        if engine.has_image(image):
            checks.append(Check(subject, "ok", image))
        else:
            advice = f"{engine.name} pull {image}  ('labkit up' does it; without a registry see {variable})"
            checks.append(Check(subject, "note", "not here yet", advice))
    return checks


def check_store(name: str, store: Path) -> Check:
    """Check how much room there is where the engine keeps images and containers."""
    check = check_disk(store, ENGINE_GIB, "disk for images", "")
    if check.level == "ok":
        return check
    return replace(check, advice=f"make room, for example with '{name} system prune'")


def check_kind(environ: Mapping[str, str]) -> Check:
    """Check that there is a kind, or that the lab would build one."""
    try:
        kind = program.locate(environ)
    except ToolError as error:
        found, _, advice = str(error).partition(": ")
        return Check("kind", "problem", found, advice)
    if kind is None:
        return Check("kind", "note", "none on PATH", f"go install {program.PACKAGE_AT}  ('labkit up' does it)")
    return Check("kind", "ok", f"{kind.version} ({kind.program})")


def check_ports(address: str, *, lab_is_up: bool) -> Check:
    """Check that the lab can have the ports that it opens on this machine."""
    if lab_is_up:
        return Check("ports", "ok", f"the lab itself listens at {address}")
    try:
        taken = taken_ports(address, lab_ports("kind"))
    except ClusterError as error:
        return Check("ports", "problem", str(error), "labkit up --backend kind --address 127.0.0.1")
    if not taken:
        return Check("ports", "ok", f"all free at {address}")
    return Check(
        "ports", "problem", "; ".join(taken), "end that process, or labkit up --backend kind --address 127.0.0.2"
    )


def check_inotify() -> Check:
    """Check how often a user's processes may watch files: a node takes dozens, and fails without a word."""
    try:
        found = int(INOTIFY.read_text())
    except (OSError, ValueError):
        return Check("inotify", "ok", "not limited here")
    if found >= MIN_INOTIFY_INSTANCES:
        return Check("inotify", "ok", f"{found} instances")
    return Check("inotify", "problem", f"{found} instances", "sudo sysctl -w fs.inotify.max_user_instances=512")


def check_tools(chosen: str | None) -> Check:
    """Check that the programs are here that go into images, or that they would be built."""
    try:
        found = tools.locate(chosen)
    except ToolError as error:
        return Check("tools", "problem", str(error), "unset LABKIT_TOOLS")
    missing = [name for name in IMAGE_TOOLS if name not in found]
    if not missing:
        return Check("tools", "ok", f"all that go into images ({', '.join(IMAGE_TOOLS)})")
    room = check_disk(cache_home(), toolbuild.BUILD_GIB, "tools", "LABKIT_CACHE")
    if room.level != "ok":
        return Check("tools", "problem", f"missing: {', '.join(missing)}; for the build {room.found}", room.advice)
    return Check("tools", "note", f"missing: {', '.join(missing)}", "labkit tools  (builds them)")
