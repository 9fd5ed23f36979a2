"""What one lab is: its name, its address, its tempo, and the folder that holds its state.

Everything that a lab owns lies under one folder, so that two labs never touch each other and nothing is left when
it is gone. The cache (tools, builds) is shared by all labs.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from labkit.errors import ClusterError, InputError
from labkit.names import MAX_TEMPO

DEFAULT_NAME: Final = "lab"
DEFAULT_ADDRESS: Final = "127.0.0.1"
BACKENDS: Final = ("local", "kind")

_DRAFT: Final = ".draft"
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")


def state_home() -> Path:
    """Return the folder that holds one folder per lab."""
    chosen = os.environ.get("LABKIT_STATE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser().absolute() / "labkit"


def cache_home() -> Path:
    """Return the folder for what can be made again: tools and build caches."""
    chosen = os.environ.get("LABKIT_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "labkit"


def checked_name(name: str) -> str:
    """Return a lab's name if it can be one: it is part of paths and of Kubernetes' names.

    Raises
    ------
    InputError
        If it cannot.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"wanted a lab name of lower-case letters, digits and dashes (at most 40), found {name!r}")
    return name


def checked_backend(name: str) -> str:
    """Return a backend's name if there is such a backend.

    Raises
    ------
    InputError
        If there is none.
    """
    if name not in BACKENDS:
        raise InputError(f"wanted a backend out of {', '.join(BACKENDS)}, found {name!r}")
    return name


def default_name() -> str:
    """Return the lab that is meant where none is named: ``LABKIT_NAME``, else ``lab``."""
    return os.environ.get("LABKIT_NAME") or DEFAULT_NAME


@dataclass(frozen=True)
class LabConfig:
    """The choices of whoever brings a lab up.

    Parameters
    ----------
    name : str
        Lower-case letters, digits and dashes; at most 40 characters.
    address : str
        IPv4 loopback address on which everything of this lab listens.
    tempo : int
        Lab seconds per wall second, 1 to 15.
    backend : str
        ``local`` or ``kind``.
    tools : str, optional
        Folder with the user's own binaries; the lab's own are used without it.

    Raises
    ------
    InputError
        If a value cannot be used.
    """

    name: str = DEFAULT_NAME
    address: str = DEFAULT_ADDRESS
    tempo: int = 1
    backend: str = "local"
    tools: str | None = None

    def __post_init__(self) -> None:
        checked_name(self.name)
        try:
            loopback = ipaddress.IPv4Address(self.address).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise InputError(f"wanted a loopback address such as 127.0.0.2, found {self.address!r}")
        if not 1 <= self.tempo <= MAX_TEMPO:
            raise InputError(f"wanted a tempo from 1 to {MAX_TEMPO}, found {self.tempo}")
        checked_backend(self.backend)


@dataclass(frozen=True)
class LabRecord:
    """What ``up`` writes down about a lab and everybody else reads.

    Parameters
    ----------
    config : LabConfig
        The choices.
    epoch : float
        Wall-clock time of lab time 0, in seconds since 1970 (UTC).
    tools_path : str
        Folder of the binaries that this lab runs.
    engine : str
        What runs the node's container on backend ``kind``, ``docker`` or ``podman``; empty on ``local``.
    """

    config: LabConfig
    epoch: float
    tools_path: str
    engine: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON-able values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LabRecord:
        """Read a record."""
        config = LabConfig(**values["config"])
        return cls(config, float(values["epoch"]), str(values["tools_path"]), str(values.get("engine", "")))


class LabFolder:
    """The folder of one lab's state, and the names of what is in it.

    Parameters
    ----------
    name : str
        The lab.

    Raises
    ------
    InputError
        If that cannot be the name of a lab.
    """

    def __init__(self, name: str) -> None:
        self.name = checked_name(name)
        self.path = state_home() / name
        self.record_file = self.path / "lab.json"
        self.kubeconfig = self.path / "kubeconfig"
        """The administrator's, the one that ``labkit env`` names."""
        self.pki = self.path / "pki"
        self.etcd = self.path / "etcd"
        self.logs = self.path / "logs"
        self.audit_log = self.logs / "audit.log"
        self.components_file = self.path / "components.json"
        self.status_file = self.path / "components-status.json"
        self.supervisor_lock = self.path / "supervisor.lock"
        self.change_lock = self.path / "change.lock"
        self.run_lock = self.path / "run.lock"
        self.applied_file = self.path / "applied.json"
        self.hostnode_file = self.path / "hostnode.json"
        self.hostnode = self.path / "hostnode"
        self.bin = self.path / "bin"
        """Goes first on the user's PATH: links to the tools that people type."""
        self.admission_file = self.path / "admission.yaml"
        self.audit_policy_file = self.path / "audit-policy.yaml"
        self.kwok_file = self.path / "kwok.yaml"
        self.kind_file = self.path / "kind.yaml"
        """What kind made the cluster from; a lab of host processes has none."""
        self.kind_log = self.logs / "kind.log"

    @property
    def passing(self) -> tuple[Path, ...]:
        """Everything that goes when the lab is taken down. Nothing else is ever removed: the folder may be wrong."""
        return (
            self.kubeconfig,
            self.path / f"{self.kubeconfig.name}.lock",  # of a kind that was killed
            self.pki,
            self.etcd,
            self.components_file,
            self.status_file,
            self.supervisor_lock,
            self.run_lock,
            self.applied_file,
            self.hostnode_file,
            self.hostnode,
            self.bin,
            self.admission_file,
            self.audit_policy_file,
            self.kwok_file,
            self.kind_file,
            *self.path.glob(f".*{_DRAFT}"),  # of a process that was killed
            self.record_file,  # last: while it is there, there is a lab to take down
        )

    @property
    def exists(self) -> bool:
        """Whether a lab of that name was ever brought up and not taken down."""
        return self.record_file.is_file()

    def read_record(self) -> LabRecord:
        """Return what ``up`` wrote.

        Raises
        ------
        ClusterError
            If there is no such lab, or its record is damaged.
        """
        try:
            return LabRecord.from_json(json.loads(self.record_file.read_text()))
        except FileNotFoundError as exc:
            raise ClusterError(
                f"there is no lab {self.name!r}: bring it up with 'labkit up --name {self.name}'"
            ) from exc
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise ClusterError(
                f"cannot read the record of lab {self.name!r} in {self.record_file} ({exc}): "
                f"remove it with 'labkit down --name {self.name}'"
            ) from exc

    def write_record(self, record: LabRecord) -> None:
        """Write the record so that a reader sees the old or the new one."""
        write_whole(self.record_file, json.dumps(record.to_json(), indent=1))


def lab_names() -> list[str]:
    """Return the names of all labs that have state on this machine, sorted."""
    try:
        return sorted(
            entry.name
            for entry in state_home().iterdir()
            if _NAME.fullmatch(entry.name) and (entry / "lab.json").is_file()
        )
    except FileNotFoundError:
        return []


def write_whole(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Write a file so that a reader sees all of it or none; readable by the owner only, unless told otherwise."""
    draft = path.with_name(f".{path.name}{_DRAFT}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)  # a full disk must not keep half of it
        raise
