"""The program ``kind`` itself: the user's, or one built from its Go module where there is none.

A node image fits the release of kind that it was built for, so an older kind is not tried.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from labkit import versions
from labkit.cluster import toolbuild
from labkit.cluster.config import cache_home, state_home
from labkit.cluster.kind.engine import version_numbers
from labkit.errors import ToolError

PROGRAM_VARIABLE: Final = "LABKIT_KIND_PROGRAM"
"""Path of the kind to use; without it the one on PATH."""
MIN_VERSION: Final = (0, 32, 0)
"""The first release whose node images run the Kubernetes of this lab."""
PACKAGE_AT: Final = f"sigs.k8s.io/kind@v{versions.KIND}"
ASK_TIMEOUT_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Kind:
    """A kind that is new enough.

    Parameters
    ----------
    program : Path
        Its command.
    version : str
        For example ``0.33.0``.
    """

    program: Path
    version: str


def locate(environ: Mapping[str, str] = os.environ) -> Kind | None:
    """Return the kind that is here already: named, on PATH, or built earlier; None if there is none.

    Raises
    ------
    ToolError
        If the named one is missing or too old, or the one on PATH is too old and none was built.
    """
    named = environ.get(PROGRAM_VARIABLE)
    if named:
        return _checked(Path(named).expanduser(), f"correct {PROGRAM_VARIABLE}")
    if built_program().is_file():
        return Kind(built_program(), versions.KIND)
    on_path = shutil.which("kind", path=environ.get("PATH", os.defpath))
    if on_path is None:
        return None
    return _checked(
        _behind_lab(Path(on_path)), f"'go install {PACKAGE_AT}', or take it off PATH and the lab builds its own"
    )


def find(environ: Mapping[str, str] = os.environ, *, say: Callable[[str], None] | None = None) -> Kind:
    """Return a kind that is new enough; where there is none, build it once with Go.

    Parameters
    ----------
    environ : mapping
        Where to look: ``LABKIT_KIND_PROGRAM``, ``PATH``.
    say : callable, optional
        Told what is being built.

    Raises
    ------
    ToolError
        If the one there is too old, or none can be built.
    """
    return locate(environ) or _build(say or (lambda line: None))


def built_program() -> Path:
    """Return where the lab keeps the kind that it built."""
    return cache_home() / "kind" / versions.KIND / "kind"


def _behind_lab(program: Path) -> Path:
    """Return what a lab's own link leads to: its folder is first after ``labkit env``, and must not link to itself."""
    return program.readlink() if program.is_symlink() and program.is_relative_to(state_home()) else program


def _checked(program: Path, advice: str) -> Kind:
    wanted = ".".join(map(str, MIN_VERSION))
    try:
        answer = subprocess.run(
            [str(program), "version"], capture_output=True, text=True, timeout=ASK_TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise ToolError(f"wanted kind {wanted} or newer at {program}, cannot run it ({exc}): {advice}") from exc
    numbers = version_numbers(answer.stdout)
    if numbers < MIN_VERSION:
        found = ".".join(map(str, numbers)) if any(numbers) else f"no version ({answer.stdout.strip()[:80]!r})"
        raise ToolError(f"wanted kind {wanted} or newer, found {found} at {program}: {advice}")
    return Kind(program, ".".join(map(str, numbers)))


def _build(say: Callable[[str], None]) -> Kind:
    say(f"building kind {versions.KIND} (no kind on PATH; about a minute)")
    program = built_program()
    toolbuild.install_program(PACKAGE_AT, program)
    return Kind(program, versions.KIND)
