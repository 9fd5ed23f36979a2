"""The pinned programs: where they are and whether they are the right ones.

They come, in this order, from a folder of the user's own (``--tools`` or ``LABKIT_TOOLS``), from the cache, and
from building them (:mod:`labkit.cluster.toolbuild`). A program of the user's own is accepted when it says that it
has the pinned version.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from labkit import versions
from labkit.cluster.config import cache_home, write_whole
from labkit.datafiles import data_path
from labkit.errors import ToolError

VERSION_TIMEOUT_SECONDS: Final = 20.0
NO_VERSION: Final = "none"


@dataclass(frozen=True)
class Tool:
    """One program.

    Parameters
    ----------
    name : str
        As the lab calls it.
    package : str
        Go package it is built from.
    version : str
        Pinned version, as it prints it.
    version_arguments : tuple of str
        Arguments that make it print its version.
    other_names : tuple of str
        Further names under which a user's folder may hold it.
    runs_lab : bool
        Whether a lab cannot do without it; the others are there for people.
    """

    name: str
    package: str
    version: str
    version_arguments: tuple[str, ...] = ("--version",)
    other_names: tuple[str, ...] = ()
    runs_lab: bool = True


_KUBERNETES: Final = "k8s.io/kubernetes/cmd"
_ETCD: Final = "go.etcd.io/etcd"
_PROMETHEUS: Final = "github.com/prometheus/prometheus/cmd"
TOOLS: Final = (
    Tool("etcd", f"{_ETCD}/server/v3", versions.ETCD, other_names=("server",)),
    Tool("kube-apiserver", f"{_KUBERNETES}/kube-apiserver", versions.KUBERNETES),
    Tool("kube-controller-manager", f"{_KUBERNETES}/kube-controller-manager", versions.KUBERNETES),
    Tool("kube-scheduler", f"{_KUBERNETES}/kube-scheduler", versions.KUBERNETES),
    Tool("kubectl", f"{_KUBERNETES}/kubectl", versions.KUBERNETES, ("version", "--client")),
    Tool("kwok", "sigs.k8s.io/kwok/cmd/kwok", versions.KWOK),
    Tool("descheduler", "sigs.k8s.io/descheduler/cmd/descheduler", versions.DESCHEDULER, ("version",)),
    Tool("prometheus", f"{_PROMETHEUS}/prometheus", versions.PROMETHEUS),
    Tool("promtool", f"{_PROMETHEUS}/promtool", versions.PROMETHEUS),
    Tool("kwokctl", "sigs.k8s.io/kwok/cmd/kwokctl", versions.KWOK, runs_lab=False),
    Tool("etcdctl", f"{_ETCD}/etcdctl/v3", versions.ETCD, ("version",), runs_lab=False),
    Tool("etcdutl", f"{_ETCD}/etcdutl/v3", versions.ETCD, ("version",), runs_lab=False),
)
"""In the order of building: what shares most with the others first."""

BUILD_TAGS: Final = "remove_all_sd"
"""Leaves Prometheus' cloud discovery out, which is most of its build."""
LINKER_FLAGS: Final = " ".join(
    [
        "-s -w",
        *(
            f"-X {variable}={version}"
            for variable, version in (
                ("k8s.io/component-base/version.gitVersion", f"v{versions.KUBERNETES}"),
                ("k8s.io/client-go/pkg/version.gitVersion", f"v{versions.KUBERNETES}"),
                ("sigs.k8s.io/descheduler/pkg/version.version", f"v{versions.DESCHEDULER}"),
                ("github.com/prometheus/common/version.Version", versions.PROMETHEUS),
                ("sigs.k8s.io/kwok/pkg/consts.Version", f"v{versions.KWOK}"),
            )
        ),
    ]
)

_VERSION = re.compile(r"\bv?(\d+\.\d+\.\d+(?:-[0-9A-Za-z.]+)?)")


def build_key() -> str:
    """Return a short text that changes with everything that goes into a build."""
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum"):
        digest.update(data_path("tools", name).read_bytes())
    digest.update("\0".join((BUILD_TAGS, LINKER_FLAGS, platform.system(), platform.machine())).encode())
    return digest.hexdigest()[:12]


def built_folder() -> Path:
    """Return the folder of the cache that holds, or will hold, the programs built from this ``tools/go.mod``."""
    return cache_home() / "tools" / build_key()


def pages_folder() -> Path:
    """Return the folder of the cache in which Prometheus finds its pages, as ``static/``."""
    return cache_home() / "pages" / versions.PROMETHEUS_MODULE


def own_folder(chosen: str | None) -> Path | None:
    """Return the folder of the user's own programs, if one was named."""
    named = chosen or os.environ.get("LABKIT_TOOLS")
    return Path(named).expanduser().absolute() if named else None


def locate(chosen: str | None = None) -> dict[str, Path]:
    """Return the path of each program that is there and has the right version.

    Parameters
    ----------
    chosen : str, optional
        Folder of the user's own programs; without it, ``LABKIT_TOOLS``.

    Raises
    ------
    ToolError
        If the user's folder is missing or holds a program of another version.
    """
    own = own_folder(chosen)
    if own is not None and not own.is_dir():
        raise ToolError(f"wanted a folder with the tools at {own}, found none: correct --tools or LABKIT_TOOLS")
    found: dict[str, Path] = {}
    for tool in TOOLS:
        candidates = [own / name for name in (tool.name, *tool.other_names)] if own else []
        candidates.append(built_folder() / tool.name)
        path = next((path for path in candidates if os.access(path, os.X_OK) and path.is_file()), None)
        if path is not None:
            found[tool.name] = path
    _check_versions({name: path for name, path in found.items() if own is not None and path.parent == own})
    return found


def require(chosen: str | None = None) -> dict[str, Path]:
    """Return the path of every program that a lab runs, and of the others that are there.

    Raises
    ------
    ToolError
        If one is missing or has another version.
    """
    found = locate(chosen)
    missing = [tool.name for tool in TOOLS if tool.runs_lab and tool.name not in found]
    if missing:
        raise ToolError(
            f"wanted the tools that run a lab, found {', '.join(missing)} missing: build them with 'labkit tools' "
            "or name a folder that has them with --tools or LABKIT_TOOLS"
        )
    return found


def find(name: str) -> Path:
    """Return the path of one program.

    Raises
    ------
    ToolError
        If it is missing or has another version.
    """
    path = locate().get(name)
    if path is None:
        raise ToolError(f"wanted the tool {name}, found none: build it with 'labkit tools' or set LABKIT_TOOLS")
    return path


def version_of(tool: Tool, path: Path) -> str:
    """Return the version that a program says it has, or why it says none."""
    try:
        answer = subprocess.run(
            [str(path), *tool.version_arguments],
            capture_output=True,
            text=True,
            timeout=VERSION_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{NO_VERSION} ({error})"
    match = _VERSION.search(answer.stdout + answer.stderr)
    return match[1] if match else NO_VERSION


def _check_versions(paths: Mapping[str, Path]) -> None:
    """Ask each program for its version, unless it did not change since it was last asked."""
    memory_file = cache_home() / "checked-versions.json"
    try:
        memory: dict[str, str] = json.loads(memory_file.read_text())
    except (OSError, ValueError):
        memory = {}
    marks = {}
    for name, path in paths.items():
        status = path.stat()
        marks[name] = f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}"
    unknown = [tool for tool in TOOLS if tool.name in paths and marks[tool.name] not in memory]
    if unknown:
        with ThreadPoolExecutor(4) as pool:
            answers = pool.map(lambda tool: version_of(tool, paths[tool.name]), unknown)
            memory |= {marks[tool.name]: answer for tool, answer in zip(unknown, answers, strict=True)}
        # What gave no version may only have been slow; where nothing can be noted all are asked again.
        known = {mark: answer for mark, answer in memory.items() if not answer.startswith(NO_VERSION)}
        with suppress(OSError):
            memory_file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(memory_file, json.dumps(known, indent=1))
    for tool in TOOLS:
        if tool.name in paths and memory[marks[tool.name]] != tool.version:
            raise ToolError(
                f"wanted {tool.name} {tool.version}, found version {memory[marks[tool.name]]} at {paths[tool.name]}: "
                "put the right one there or leave --tools and LABKIT_TOOLS out"
            )
