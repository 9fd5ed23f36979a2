"""The container engine that runs the cluster's node: Docker or Podman, whichever works here.

Nothing is guessed from files: the engine itself is asked, for what counts is what it can do for this user. Where it
cannot, one line says which of its needs is not met and what helps.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from labkit.errors import ClusterError, InputError, ToolError

PROVIDER_VARIABLE: Final = "KIND_EXPERIMENTAL_PROVIDER"
"""kind's own variable; whoever sets it has chosen."""
ENGINES: Final = ("docker", "podman")
"""In the order of trying, as kind does."""
MIN_VERSIONS: Final[Mapping[str, tuple[int, int]]] = {"docker": (20, 10), "podman": (4, 0)}
"""Docker: the first that knows cgroup v2. Podman: the first with the network that kind's node gets its address from."""
ROOTLESS_CONTROLLERS: Final = ("cpu", "memory", "pids")
"""What a kubelet needs of the cgroups that a user without root is given."""
ROOTLESS_IDS: Final = 65536
"""User ids that a node's container needs; its own system and the pods' users are among them."""
ASK_TIMEOUT_SECONDS: Final = 30.0
RUN_TIMEOUT_SECONDS: Final = 900.0

_HELP: Final = "docs/podman.md"


@dataclass(frozen=True)
class Engine:
    """A container engine that works.

    Parameters
    ----------
    name : str
        ``docker`` or ``podman``.
    program : Path
        Its command.
    version : str
        The version of what runs the containers: the daemon's for Docker.
    rootless : bool
        Whether containers run without root.
    cgroup_version : int
        1 or 2.
    variables : Mapping of str to str
        The environment in which it was found; every call gets it.
    store : Path, optional
        Folder of its images on this machine; None where that is another machine.
    """

    name: str
    program: Path
    version: str
    rootless: bool
    cgroup_version: int
    variables: Mapping[str, str] = field(repr=False)
    store: Path | None = None

    def environment(self) -> dict[str, str]:
        """Return what kind must be told, to be added to its environment."""
        return {PROVIDER_VARIABLE: self.name}

    def run(self, *arguments: str, what: str, timeout_seconds: float = RUN_TIMEOUT_SECONDS) -> str:
        """Run the engine's command and return what it printed.

        Parameters
        ----------
        *arguments : str
            Its arguments.
        what : str
            What this does, for the error: "building labkit/services".
        timeout_seconds : float
            How long it may take.

        Raises
        ------
        ClusterError
            If it fails, with the last line of what it said.
        """
        answer = _answer([str(self.program), *arguments], self.variables, timeout_seconds)
        if answer.returncode:
            raise ClusterError(f"{what} failed: {last_line(answer.stderr) or last_line(answer.stdout) or 'no message'}")
        return answer.stdout

    def has_image(self, name: str) -> bool:
        """Return whether an image of that name is stored here."""
        command = [str(self.program), "image", "inspect", "--format", "{{.Id}}", name]
        return _answer(command, self.variables, ASK_TIMEOUT_SECONDS).returncode == 0


def find(environ: Mapping[str, str] = os.environ) -> Engine:
    """Return the engine to use: the one that ``KIND_EXPERIMENTAL_PROVIDER`` names, else the first that works.

    Raises
    ------
    InputError
        If the variable names something else than an engine.
    ToolError
        If there is none, or none that is new enough.
    ClusterError
        If the one there is cannot be used by this user; says what helps.
    """
    chosen = environ.get(PROVIDER_VARIABLE, "")
    if chosen and chosen not in ENGINES:
        raise InputError(
            f"wanted {' or '.join(ENGINES)} in {PROVIDER_VARIABLE}, found {chosen!r}: correct it, or unset it to have "
            "the lab look for itself"
        )
    problems: list[ClusterError] = []
    for name in (chosen,) if chosen else ENGINES:
        program = _program(name, environ)
        if program is None:
            continue
        try:
            return _PROBES[name](program, environ)
        except ClusterError as problem:
            problems.append(problem)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ClusterError("; ".join(str(problem) for problem in problems))
    raise ToolError(
        f"wanted {chosen or 'a container engine (docker or podman)'}, found none on PATH: install it, for example "
        f"'sudo apt install {'docker.io' if chosen == 'docker' else 'podman'}' ({_HELP}), or use '--backend local', "
        "which needs none"
    )


def last_line(text: str) -> str:
    """Return the last line of a text that is not empty, without colours."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if line.strip()]
    return lines[-1] if lines else ""


def version_numbers(text: str) -> tuple[int, int, int]:
    """Return the first version in a text, (0, 0, 0) if there is none."""
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else (0, 0, 0)


# --- Docker ----------------------------------------------------------------------------------------------


def _docker(program: Path, environ: Mapping[str, str]) -> Engine:
    answer = _answer([str(program), "info", "--format", "{{json .}}"], environ, ASK_TIMEOUT_SECONDS)
    info = _first_json(answer.stdout)
    version = str(info.get("ServerVersion") or "")
    if not version:
        said = " ".join([*map(str, info.get("ServerErrors") or ()), answer.stderr]).strip()
        raise ClusterError(_docker_advice(said, environ))
    _check_version("docker", version)
    if info.get("OSType", "linux") != "linux":
        raise ClusterError(
            f"wanted docker with Linux containers, found {info['OSType']} containers: switch it to Linux containers"
        )
    rootless = any("rootless" in str(option) for option in info.get("SecurityOptions") or ())
    cgroup_version = int(info.get("CgroupVersion") or 1)
    if rootless:
        limits = {"cpu": "CPUShares", "memory": "MemoryLimit", "pids": "PidsLimit"}
        controllers = [name for name, key in limits.items() if info.get(key)]
        _check_rootless("docker", cgroup_version, controllers)
    is_here = environ.get("DOCKER_HOST", "unix://").startswith("unix://") and info.get("DockerRootDir")
    store = Path(str(info["DockerRootDir"])) if is_here else None
    return Engine("docker", program, version, rootless, cgroup_version, environ, store)


def _docker_advice(said: str, environ: Mapping[str, str]) -> str:
    if "permission denied" in said.lower():
        return (
            "wanted to use docker, found no right to its socket: 'sudo usermod -aG docker $USER' and log in again, "
            "or use rootless podman (docs/podman.md)"
        )
    where = environ.get("DOCKER_HOST")
    if not where and "unix:///var/run/docker.sock" in said:
        where = "its usual socket"
    return (
        f"wanted to use docker, found no daemon that answers at {where or 'its address'}"
        f"{'' if said else ' (it said nothing)'}: start it with 'sudo systemctl start docker', or open Docker Desktop"
        f"{', or correct DOCKER_HOST' if environ.get('DOCKER_HOST') else ''}"
    )


# --- Podman ----------------------------------------------------------------------------------------------


def _podman(program: Path, environ: Mapping[str, str]) -> Engine:
    answer = _answer([str(program), "info", "--format", "json"], environ, ASK_TIMEOUT_SECONDS)
    info = _first_json(answer.stdout)
    host = info.get("host")
    if answer.returncode or not isinstance(host, dict):
        raise ClusterError(_podman_advice(last_line(answer.stderr)))
    version = str((info.get("version") or {}).get("Version") or "")
    _check_version("podman", version)
    rootless = bool((host.get("security") or {}).get("rootless"))
    cgroup_version = 2 if host.get("cgroupVersion") == "v2" else 1
    if rootless:
        _check_rootless("podman", cgroup_version, host.get("cgroupControllers") or ())
        # A podman that runs in a virtual machine says nothing about the ids there.
        maps = (host.get("idMappings") or {}) if not host.get("serviceIsRemote") else {}
        for kind, file in (("uidmap", "subuid"), ("gidmap", "subgid")):
            _check_ids(maps.get(kind), file)
    root = (info.get("store") or {}).get("graphRoot")
    store = Path(str(root)) if root and not host.get("serviceIsRemote") else None
    return Engine("podman", program, version, rootless, cgroup_version, environ, store)


def _podman_advice(said: str) -> str:
    if "podman machine" in said or "connect to Podman" in said:
        return f"wanted to use podman, found no machine that answers: 'podman machine start' ({_HELP})"
    if "newuidmap" in said or "newgidmap" in said:
        return (
            f"wanted podman without root, found: {said}: 'sudo apt install uidmap', then 'podman system migrate' "
            f"({_HELP})"
        )
    return f"wanted to use podman, found: {said or 'no message'}: 'podman info' must work for this user first ({_HELP})"


def _check_ids(mappings: Sequence[Mapping[str, Any]] | None, file: str) -> None:
    if mappings is None:
        return
    found = sum(int(mapping.get("size", 0)) for mapping in mappings)
    if found < ROOTLESS_IDS:
        kind = "subuids" if file == "subuid" else "subgids"
        raise ClusterError(
            f"wanted {ROOTLESS_IDS} ids in /etc/{file} for podman without root, found {found}: 'sudo usermod "
            f"--add-{kind} 100000-165535 $USER', then 'podman system migrate' ({_HELP})"
        )


# --- both ------------------------------------------------------------------------------------------------


def _check_version(name: str, version: str) -> None:
    wanted = MIN_VERSIONS[name]
    if version_numbers(version)[:2] < wanted:
        raise ToolError(
            f"wanted {name} {'.'.join(map(str, wanted))} or newer, found {version or 'no version'}: update it"
        )


def _check_rootless(name: str, cgroup_version: int, controllers: Sequence[str]) -> None:
    if cgroup_version != 2:
        raise ClusterError(
            f"wanted cgroup v2 for {name} without root, found v1: boot with systemd.unified_cgroup_hierarchy=1, or run "
            f"{name} as root ({_HELP})"
        )
    missing = [controller for controller in ROOTLESS_CONTROLLERS if controller not in controllers]
    if missing:
        raise ClusterError(
            f"wanted the cgroup controllers {', '.join(ROOTLESS_CONTROLLERS)} for {name} without root, found "
            f"{', '.join(missing)} not delegated: set 'Delegate=yes' for user@.service and log in again ({_HELP})"
        )


def _program(name: str, environ: Mapping[str, str]) -> Path | None:
    """Return the command of that engine; ``docker`` may be podman under another name, which then is podman's to use."""
    found = shutil.which(name, path=environ.get("PATH", os.defpath))
    if found is None:
        return None
    if name == "docker" and "podman" in _answer([found, "--version"], environ, ASK_TIMEOUT_SECONDS).stdout.lower():
        return None
    return Path(found)


def _answer(
    command: Sequence[str], environ: Mapping[str, str], timeout_seconds: float
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            list(command),
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise ClusterError(
            f"wanted an answer of '{Path(command[0]).name} {' '.join(command[1:3])}' within {timeout_seconds:g} s, "
            "found none: see whether the engine hangs, and start it again"
        ) from exc
    except OSError as exc:
        raise ToolError(f"wanted to run {command[0]}, found: {exc.strerror or exc}: install it anew") from exc


def _first_json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


_PROBES: Final[Mapping[str, Callable[[Path, Mapping[str, str]], Engine]]] = {"docker": _docker, "podman": _podman}
