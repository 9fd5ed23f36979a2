"""A pod's volumes as folders on the host, filled and kept current.

Files of ConfigMap, Secret, token and downwardAPI volumes are replaced all at once, as the kubelet does it: they lie
in a dated folder, ``..data`` is a link to it, each name is a link through ``..data``. So a reader sees the old
version or the new one, and a program that watches for the change of ``..data`` notices.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from labkit.clock import Clock
from labkit.cluster.hostnode.content import Files, Sources, VolumeError, volume_files
from labkit.cluster.hostnode.environment import object_data
from labkit.cluster.hostnode.sandbox import Mount
from labkit.errors import KubeError
from labkit.kube import CONFIG_MAPS, SECRETS, Kube, Resource

logger = logging.getLogger(__name__)

Object = Mapping[str, Any]

SERVICE_ACCOUNTS: Final = Resource("", "v1", "serviceaccounts")
TOKEN_LIFE_USED: Final = 0.8
"""A token is renewed when this share of its life is over."""
PATIENCE_SECONDS: Final = 5.0
"""An API server that has not answered for so long is taken for away: a container may be waiting to come back."""
AWAY_SECONDS: Final = 10.0
_KINDS: Final = {"configmap": CONFIG_MAPS, "secret": SECRETS}
_DATA: Final = "..data"
FORBIDDEN: Final = 403
NOT_FOUND: Final = 404


class NotYetAllowedError(VolumeError):
    """The API server has not yet noticed that the pod is ours; usually it does within a second."""


@dataclass
class _Token:
    text: str
    renew_at: float


class PodObjects:
    """What a pod may read of the API: the ConfigMaps and Secrets it names, and tokens of its service account.

    Parameters
    ----------
    kube : Kube
        The API server, as the node.
    pod : Mapping
        The pod.
    clock : Clock
        For the age of tokens.
    """

    def __init__(self, kube: Kube, pod: Object, clock: Clock) -> None:
        self._kube = kube
        self._clock = clock
        self._namespace: str = pod["metadata"]["namespace"]
        self._name: str = pod["metadata"]["name"]
        self._uid: str = pod["metadata"]["uid"]
        self._account: str = pod["spec"].get("serviceAccountName") or "default"
        self._tokens: dict[tuple[str, int], _Token] = {}
        self._away_until = float("-inf")
        self._known: dict[tuple[str, str], dict[str, bytes] | None] = {}

    def files(self, kind: str, name: str) -> dict[str, bytes] | None:
        """Return the files of a ConfigMap or Secret, None if there is no such object.

        While the API server is away they are as last seen: a container that dies then must come back all the same.
        """
        if (kind, name) in self._known and self._is_away():
            return self._known[kind, name]
        path = _KINDS[kind].path(self._namespace, name)
        try:
            obj: dict[str, Any] | None = self._kube.request("GET", path, timeout_seconds=PATIENCE_SECONDS)
        except KubeError as error:
            obj = None
            if self._notice(error) and (kind, name) in self._known:
                return self._known[kind, name]
            if error.status != NOT_FOUND:
                raise
        files = None if obj is None else object_data(obj | {"kind": "Secret" if kind == "secret" else "ConfigMap"})
        self._known[kind, name] = files
        return files

    def texts(self, kind: str, name: str) -> dict[str, str] | None:
        """Return the data of a ConfigMap or Secret as text, for environment variables."""
        found = self.files(kind, name)
        return None if found is None else {key: value.decode(errors="replace") for key, value in found.items()}

    def token(self, audience: str, seconds: int) -> str:
        """Return a token bound to the pod; a new one when the last grows old."""
        known = self._tokens.get((audience, seconds))
        now = self._clock.monotonic()
        if known is not None and (now < known.renew_at or self._is_away()):
            return known.text
        spec: dict[str, Any] = {
            "expirationSeconds": seconds,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": self._name, "uid": self._uid},
        }
        if audience:
            spec["audiences"] = [audience]
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        path = SERVICE_ACCOUNTS.path(self._namespace, self._account, "token")
        try:
            answer = self._kube.request("POST", path, body=request, timeout_seconds=PATIENCE_SECONDS)
        except KubeError as error:
            if self._notice(error) and known is not None:
                return known.text
            raise
        text: str = answer["status"]["token"]
        self._tokens[audience, seconds] = _Token(text, now + TOKEN_LIFE_USED * seconds)
        return text

    def _is_away(self) -> bool:
        return self._clock.monotonic() < self._away_until

    def _notice(self, error: KubeError) -> bool:
        """Return whether the API server is away; what is known is then used for a while without asking."""
        away = error.may_pass
        if away:
            self._away_until = self._clock.monotonic() + AWAY_SECONDS
        return away


class PodVolumes:
    """The volumes of one pod.

    Parameters
    ----------
    pod : Mapping
        The pod.
    folder : Path
        Holds one folder per volume.
    objects : PodObjects
        What they are filled from.
    address : str
        The node's address.
    """

    def __init__(self, pod: Object, folder: Path, objects: PodObjects, address: str) -> None:
        self._pod = pod
        self._folder = folder
        self._volumes: list[Object] = list(pod["spec"].get("volumes") or ())
        self._sources = Sources(objects.files, objects.token, address)
        self._written: dict[str, Files] = {}

    def update(self, pod: Object) -> None:
        """Take a newer version of the pod: its labels and annotations may be files."""
        self._pod = pod

    def fill(self) -> None:
        """Make every volume, or bring it up to date.

        Raises
        ------
        VolumeError
            If one cannot be filled now.
        KubeError
            If the API server did not answer.
        """
        for volume in self._volumes:
            name = volume["name"]
            target = self._folder / name
            if "emptyDir" in volume:
                target.mkdir(parents=True, exist_ok=True)
                target.chmod(0o777)
                continue
            try:
                files = volume_files(self._pod, volume, self._sources)
            except VolumeError as error:
                raise VolumeError(f'MountVolume.SetUp failed for volume "{name}" : {error}') from error
            except KubeError as error:
                if error.status == FORBIDDEN:
                    raise NotYetAllowedError(f'MountVolume.SetUp failed for volume "{name}" : {error}') from error
                if error.status == NOT_FOUND:
                    raise VolumeError(f'MountVolume.SetUp failed for volume "{name}" : {error}') from error
                raise
            if self._written.get(name) != files:
                write_files(target, files)
                self._written[name] = files

    def mounts(self, container: Object) -> list[Mount]:
        """Return the mounts of a container; volumes must have been filled.

        Raises
        ------
        VolumeError
            If it mounts a volume or ``subPath`` that is not there.
        """
        by_name = {volume["name"]: volume for volume in self._volumes}
        mounts = []
        for wanted in container.get("volumeMounts") or ():
            volume = by_name.get(wanted["name"])
            if volume is None:
                raise VolumeError(
                    f"container {container['name']!r} mounts the volume {wanted['name']!r}, which the pod lacks"
                )
            writable = "emptyDir" in volume
            source = self._folder / wanted["name"]
            sub_path = wanted.get("subPath")
            if sub_path:
                if ".." in PurePosixPath(sub_path).parts:
                    raise VolumeError(f"subPath: wanted a path within the volume, found {sub_path!r}")
                source = Path(os.path.realpath(source / sub_path))
                if writable:
                    source.mkdir(parents=True, exist_ok=True)
                elif not source.exists():
                    raise VolumeError(f"subPath {sub_path!r} is not in the volume {wanted['name']!r}")
            mounts.append(
                Mount(str(source), wanted["mountPath"], read_only=not writable or bool(wanted.get("readOnly")))
            )
        return mounts


def write_files(folder: Path, files: Files) -> None:
    """Make a folder hold exactly these files, for a reader all at once."""
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / _DATA
    before = folder / os.readlink(link) if link.is_symlink() else None
    number = int(before.name.rpartition("_")[2]) + 1 if before is not None else 1
    version = folder / f"..version_{number}"
    if version.exists():
        shutil.rmtree(version)
    version.mkdir()
    for path, content in files.items():
        target = version / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.data)
        target.chmod(content.mode)
    draft = folder / f"{_DATA}_tmp"
    draft.unlink(missing_ok=True)
    draft.symlink_to(version.name)
    draft.replace(link)
    names = {PurePosixPath(path).parts[0] for path in files}
    _link_names(folder, names)
    if before is not None and before.name != version.name:
        shutil.rmtree(before, ignore_errors=True)


def _link_names(folder: Path, names: Iterable[str]) -> None:
    wanted = set(names)
    for entry in folder.iterdir():
        if entry.is_symlink() and not entry.name.startswith("..") and entry.name not in wanted:
            entry.unlink()
    for name in wanted:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"{_DATA}/{name}")
