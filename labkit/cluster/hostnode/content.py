"""The files of ConfigMap, Secret, downwardAPI and projected volumes. Pure: objects and tokens are passed in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from labkit.cluster.hostnode.environment import field_value
from labkit.errors import ClusterError

Object = Mapping[str, Any]

DEFAULT_MODE: Final = 0o644
DEFAULT_TOKEN_SECONDS: Final = 3600


class VolumeError(ClusterError):
    """A volume cannot be filled; the message is what the event FailedMount says."""


@dataclass(frozen=True)
class FileContent:
    """A file of a volume: its bytes and permission bits."""

    data: bytes
    mode: int


Files = dict[str, FileContent]
"""Path within the volume → the file."""


@dataclass(frozen=True)
class Sources:
    """What volumes are filled from.

    Parameters
    ----------
    lookup : callable
        ``("configmap" or "secret", name)`` → its files, or None if there is no such object.
    token : callable
        ``(audience, seconds)`` → a token of the pod's service account.
    address : str
        The node's address.
    """

    lookup: Callable[[str, str], Mapping[str, bytes] | None]
    token: Callable[[str, int], str]
    address: str


def volume_files(pod: Object, volume: Object, sources: Sources) -> Files:
    """Return the files of one volume of a pod.

    Raises
    ------
    VolumeError
        If something that is not optional is missing, or a path would leave the volume.
    """
    for kind, field, name_key in (("configmap", "configMap", "name"), ("secret", "secret", "secretName")):
        if field in volume:
            source = volume[field] or {}
            return _object_files(kind, source[name_key], source, source.get("defaultMode", DEFAULT_MODE), sources)
    if "downwardAPI" in volume:
        source = volume["downwardAPI"] or {}
        return _downward_files(pod, source, source.get("defaultMode", DEFAULT_MODE), sources)
    if "projected" in volume:
        projected = volume["projected"] or {}
        mode = projected.get("defaultMode", DEFAULT_MODE)
        files: Files = {}
        for source in projected.get("sources") or ():
            files |= _projected_files(pod, source, mode, sources)
        return files
    return {}


def _projected_files(pod: Object, source: Object, mode: int, sources: Sources) -> Files:
    if "serviceAccountToken" in source:
        wanted = source["serviceAccountToken"]
        token = sources.token(wanted.get("audience", ""), wanted.get("expirationSeconds", DEFAULT_TOKEN_SECONDS))
        return {_inside(wanted["path"]): FileContent(token.encode(), mode)}
    for kind, field in (("configmap", "configMap"), ("secret", "secret")):
        if field in source:
            return _object_files(kind, source[field]["name"], source[field], mode, sources)
    return _downward_files(pod, source["downwardAPI"], mode, sources)


def _object_files(kind: str, name: str, source: Object, mode: int, sources: Sources) -> Files:
    data = sources.lookup(kind, name)
    if data is None:
        if source.get("optional"):
            return {}
        raise VolumeError(f'{kind} "{name}" not found')
    items = source.get("items")
    if not items:
        return {_inside(key): FileContent(value, mode) for key, value in data.items()}
    files: Files = {}
    for item in items:
        if item["key"] in data:
            files[_inside(item["path"])] = FileContent(data[item["key"]], item.get("mode", mode))
        elif not source.get("optional"):
            raise VolumeError(f"{kind} references non-existent key: {item['key']} is not in {name}")
    return files


def _downward_files(pod: Object, source: Object, mode: int, sources: Sources) -> Files:
    return {
        _inside(item["path"]): FileContent(
            field_value(pod, item["fieldRef"]["fieldPath"], address=sources.address).encode(), item.get("mode", mode)
        )
        for item in source.get("items") or ()
    }


def _inside(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or pure.parts[0].startswith(".."):
        raise VolumeError(f"wanted a path within the volume, found {path!r}")
    return str(pure)
