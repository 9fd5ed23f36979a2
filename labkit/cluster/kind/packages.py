"""The Python packages of the services' image, gathered on this machine so that building the image needs no network.

Where the image's Python is like the one that runs here, the packages of this environment are copied: they were
installed from the lock and checked against its hashes then, and nothing is downloaded. For another Python, pip fetches
the wheels that fit it, against the same hashes.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from labkit.cluster.kind.engine import Engine, last_line
from labkit.errors import ClusterError, ToolError

MIN_PYTHON: Final = (3, 11)
LEFT_OUT: Final = ("kubernetes/aio",)
"""Parts of packages that no service loads: a quarter of the image."""
_ASK: Final = (
    "import json, platform, sys; "
    "print(json.dumps([list(sys.version_info[:2]), platform.machine(), platform.libc_ver()]))"
)
_OLDER_PLATFORMS: Final = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
"""glibc's minor version, and the tag that wheels for it had before tags were numbered."""


@dataclass(frozen=True)
class Python:
    """What decides which wheels a Python can load.

    Parameters
    ----------
    version : tuple of int
        Major and minor version.
    machine : str
        For example ``x86_64``.
    glibc : tuple of int, optional
        Its C library's version; None where that is another library.
    """

    version: tuple[int, int]
    machine: str
    glibc: tuple[int, int] | None

    def can_load_packages_of(self, other: Python) -> bool:
        """Return whether packages installed for another Python work with this one."""
        if (self.version, self.machine) != (other.version, other.machine):
            return False
        return self.glibc is not None and other.glibc is not None

    def platforms(self) -> list[str]:
        """Return the tags of wheels that it can load, as pip wants them."""
        if self.glibc is None:
            return [f"musllinux_1_{minor}_{self.machine}" for minor in (2, 1)]
        tags = []
        for minor in range(self.glibc[1], 4, -1):
            tags.append(f"manylinux_2_{minor}_{self.machine}")
            if minor in _OLDER_PLATFORMS:
                tags.append(f"{_OLDER_PLATFORMS[minor]}_{self.machine}")
        return [*tags, f"linux_{self.machine}"]


def python_here() -> Python:
    """Return the Python that runs this."""
    return _python(sys.version_info[:2], platform.machine(), platform.libc_ver())


def python_of(engine: Engine, image: str) -> Python:
    """Return the Python of an image.

    Raises
    ------
    ToolError
        If it has none, or one that is too old.
    """
    command = ("run", "--rm", "--network", "none", "--entrypoint", "python3", image, "-c", _ASK)
    try:
        version, machine, libc = json.loads(engine.run(*command, what=f"asking {image} for its Python"))
    except (ClusterError, ValueError) as exc:
        raise ToolError(
            f"wanted python3 in the base image {image}, found: {exc}; name another with LABKIT_KIND_BASE_IMAGE"
        ) from exc
    found = _python((version[0], version[1]), machine, (libc[0], libc[1]))
    if found.version < MIN_PYTHON:
        raise ToolError(
            f"wanted Python {'.'.join(map(str, MIN_PYTHON))} or newer in the base image {image}, found "
            f"{'.'.join(map(str, found.version))}; name another with LABKIT_KIND_BASE_IMAGE"
        )
    return found


def gather(requirements: Path, target: Path, python: Python) -> str:
    """Put the packages of a file of pinned requirements into a folder.

    Parameters
    ----------
    requirements : Path
        Pins with hashes.
    target : Path
        Folder to fill; becomes an entry of ``PYTHONPATH``.
    python : Python
        Who will load them.

    Returns
    -------
    str
        Where they came from, for the user.

    Raises
    ------
    ToolError
        If pip cannot get them.
    """
    pins = pinned(requirements)
    if python.can_load_packages_of(python_here()) and not differing(pins):
        for name in pins:
            _copy(importlib.metadata.distribution(name), target)
        origin = "this environment"
    else:
        _fetch(requirements, target, python)
        origin = "PyPI"
    for part in LEFT_OUT:
        shutil.rmtree(target / part, ignore_errors=True)
    return origin


def pinned(requirements: Path) -> dict[str, str]:
    """Return name and version of each package that a file pins."""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", requirements.read_text(), re.MULTILINE))


def differing(pins: dict[str, str]) -> list[str]:
    """Return the packages that this environment lacks, or has in another version."""
    names = []
    for name, version in pins.items():
        try:
            if importlib.metadata.version(name) != version:
                names.append(name)
        except importlib.metadata.PackageNotFoundError:
            names.append(name)
    return names


def _python(version: tuple[int, ...], machine: str, libc: tuple[str, str]) -> Python:
    numbers = re.match(r"(\d+)\.(\d+)", libc[1]) if libc[0] == "glibc" else None
    return Python((version[0], version[1]), machine, (int(numbers[1]), int(numbers[2])) if numbers else None)


def _copy(distribution: importlib.metadata.Distribution, target: Path) -> None:
    for file in distribution.files or ():
        # Scripts lie outside of the folder; what was compiled here names this machine's paths.
        if ".." in file.parts or file.is_absolute() or "__pycache__" in file.parts:
            continue
        source = Path(str(distribution.locate_file(file)))
        if source.is_file():
            copy = target.joinpath(*file.parts)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)


def _fetch(requirements: Path, target: Path, python: Python) -> None:
    tag = f"cp{python.version[0]}{python.version[1]}"
    command = [
        sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--no-input", "--no-deps",
        "--no-compile", "--require-hashes", "--only-binary=:all:", "--target", str(target), "--implementation", "cp",
        "--python-version", ".".join(map(str, python.version)), "--abi", tag, "--abi", "abi3", "--abi", "none",
        *(word for name in python.platforms() for word in ("--platform", name)), "-r", str(requirements),
    ]  # fmt: skip
    answer = subprocess.run(
        command, env=dict(os.environ), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if answer.returncode:
        version = ".".join(map(str, python.version))
        here = ".".join(map(str, sys.version_info[:2]))
        raise ToolError(
            f"wanted the services' packages for Python {version} of the base image, pip found: "
            f"{last_line(answer.stderr)}; without a package index name a base image with Python {here} "
            "(LABKIT_KIND_BASE_IMAGE), then those of this environment are taken"
        )
