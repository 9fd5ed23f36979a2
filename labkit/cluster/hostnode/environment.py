"""A container's environment, command and arguments, as Kubernetes defines them. Pure: what it reads is passed in."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from labkit.errors import ClusterError

Object = Mapping[str, Any]
Lookup = Callable[[str, str], Mapping[str, str] | None]
"""``("configmap" or "secret", name)`` → its data as text, or None if there is no such object."""

_REFERENCE = re.compile(r"\$(?:\$|\(([^()$]*)\))")

IMAGE_ENVIRONMENT: Final[Mapping[str, str]] = {
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONUNBUFFERED": "1",
}
"""What an image would set: a home that can be written to, and logs that come when they are written."""


class ContainerConfigError(ClusterError):
    """A container cannot be started as its spec says; the message is what ``kubectl get pod`` shows."""


def expand(text: str, values: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` by its value; what is not known stays as it is, ``$$`` is a dollar sign.

    Examples
    --------
    >>> expand("--at=$(HOST):$(PORT) $$(HOST)", {"HOST": "127.0.0.1"})
    '--at=127.0.0.1:$(PORT) $(HOST)'
    """

    def replaced(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return values.get(match[1], match[0])

    return _REFERENCE.sub(replaced, text)


def object_data(obj: Object) -> dict[str, bytes]:
    """Return the files of a ConfigMap or Secret."""
    if obj.get("kind") == "Secret":
        return {key: base64.b64decode(value) for key, value in (obj.get("data") or {}).items()}
    data = {key: str(value).encode() for key, value in (obj.get("data") or {}).items()}
    return data | {key: base64.b64decode(value) for key, value in (obj.get("binaryData") or {}).items()}


def field_value(pod: Object, path: str, *, address: str) -> str:
    """Return what a ``fieldRef`` names.

    Parameters
    ----------
    pod : Mapping
        The pod.
    path : str
        Such as ``metadata.name`` or ``metadata.labels['app']``.
    address : str
        The node's address, which is also the pod's.

    Raises
    ------
    ContainerConfigError
        If there is no such field to refer to.
    """
    metadata, spec = pod["metadata"], pod["spec"]
    simple = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.hostIP": address,
        "status.hostIPs": address,
        "status.podIP": address,
        "status.podIPs": address,
    }
    if path in simple:
        return str(simple[path])
    match = re.fullmatch(r"metadata\.(labels|annotations)(?:\['(.+)'\])?", path)
    if match is None:
        raise ContainerConfigError(f"fieldRef {path!r} is not supported")
    entries: Mapping[str, str] = metadata.get(match[1]) or {}
    if match[2] is not None:
        return entries.get(match[2], "")
    lines = (f"{key}={_quoted(value)}" for key, value in sorted(entries.items()))
    return "\n".join(lines)


def build_environment(
    pod: Object, container: Object, lookup: Lookup, *, base: Mapping[str, str], address: str
) -> dict[str, str]:
    """Return the environment of a container.

    Parameters
    ----------
    pod, container : Mapping
        The pod and one of its containers.
    lookup : callable
        Reads a ConfigMap or Secret of the pod's namespace.
    base : Mapping
        What every container gets; the container's own entries go over it.
    address : str
        The node's address.

    Raises
    ------
    ContainerConfigError
        If something that is not optional is missing.
    """
    values = dict(base)
    for source in container.get("envFrom") or ():
        prefix = source.get("prefix", "")
        for kind, field in (("configmap", "configMapRef"), ("secret", "secretRef")):
            reference = source.get(field)
            if reference is None:
                continue
            data = lookup(kind, reference["name"])
            if data is None and not reference.get("optional"):
                raise ContainerConfigError(f'{kind} "{reference["name"]}" not found')
            values.update({prefix + key: value for key, value in (data or {}).items()})
    for entry in container.get("env") or ():
        if "valueFrom" in entry:
            value = _value_from(pod, entry["valueFrom"], lookup, address)
            if value is not None:
                values[entry["name"]] = value
        else:
            values[entry["name"]] = expand(entry.get("value") or "", values)
    return values


def build_command(container: Object, environment: Mapping[str, str]) -> list[str]:
    """Return program and arguments of a container.

    Raises
    ------
    ContainerConfigError
        If it names no command: there is no image that would have one.
    """
    words: Sequence[str] = container.get("command") or ()
    if not words:
        raise ContainerConfigError(
            f"container {container['name']!r} names no command; a host node has no images, so the command must be given"
        )
    return [expand(word, environment) for word in (*words, *(container.get("args") or ()))]


def _value_from(pod: Object, source: Object, lookup: Lookup, address: str) -> str | None:
    if "fieldRef" in source:
        return field_value(pod, source["fieldRef"]["fieldPath"], address=address)
    kind, reference = (
        ("configmap", source["configMapKeyRef"]) if "configMapKeyRef" in source else ("secret", source["secretKeyRef"])
    )
    data = lookup(kind, reference["name"])
    if data is None:
        if reference.get("optional"):
            return None
        raise ContainerConfigError(f'{kind} "{reference["name"]}" not found')
    if reference["key"] not in data:
        if reference.get("optional"):
            return None
        raise ContainerConfigError(
            f"couldn't find key {reference['key']} in {kind} {pod['metadata']['namespace']}/{reference['name']}"
        )
    return data[reference["key"]]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
