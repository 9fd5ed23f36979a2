"""The objects of ``k8s/`` and ``rules/``: read, patched for this lab, applied in the order of their kinds.

The files are the single source of what runs. The few values that differ between labs and backends are put in here:
the address and authority of each webhook, its certificate, and a ConfigMap ``lab`` in each namespace that runs
something.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import yaml

from labkit.clock import wait_until, wall_seconds
from labkit.cluster.config import LabConfig, write_whole
from labkit.cluster.pki import Authority, Pair
from labkit.datafiles import data_path
from labkit.errors import InputError, KubeError
from labkit.kube import CUSTOM_RESOURCE_DEFINITIONS, NODES, Kube
from labkit.names import (
    ADDON_NODE_LABEL,
    ADDON_NODE_TAINT,
    DESCHEDULING_INTERVAL_KEY,
    DESCHEDULING_INTERVAL_SECONDS,
    EPOCH_KEY,
    EVALUATION_INTERVAL_KEY,
    EVALUATION_INTERVAL_SECONDS,
    HOST_NODE,
    HOSTNAME_LABEL,
    LAB_CONFIG_MAP,
    LISTEN_ADDRESS_KEY,
    LOOKBACK_KEY,
    LOOKBACK_SECONDS,
    SCRAPE_INTERVAL_KEY,
    SCRAPE_INTERVAL_SECONDS,
    TEMPO_KEY,
)
from labkit.units import format_duration

logger = logging.getLogger(__name__)

Object = dict[str, Any]

OVERLAYS: Final = "overlays"
"""Folder of ``k8s/`` with one folder per backend: the few objects that only it has."""
NOT_APPLIED: Final = ("stages", OVERLAYS, "examples")
"""Folders of ``k8s/`` that hold something else than what always runs."""
TOP_FILES: Final = ("namespaces.yaml", "kwok-nodes.yaml", "descheduler-policy.yaml")

_FIRST: Final = (
    "Namespace",
    "CustomResourceDefinition",
    "PriorityClass",
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "ConfigMap",
    "Secret",
    "Service",
    "Node",
    "Deployment",
)
_LAST: Final = ("PrometheusRule", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
"""Rules before the webhook that checks them: on a new lab nobody answers for it yet."""
WORKLOADS: Final = ("Deployment",)
_WEBHOOKS: Final = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
OPEN_PORT: Final = "http"
"""Name of a container's port that people and the lab's own Python ask from outside: plain HTTP, nothing but reading."""
_PARALLEL: Final = 8
_THERE: Final = "there"
_APPLIED: Final = "applied"
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast where it was built


def load(backend: str = "local") -> list[Object]:
    """Return every object that a lab of a backend always has, as its files say, in the order of applying.

    Raises
    ------
    InputError
        If a file is no YAML or an object lacks kind, version or name.
    """
    folder = data_path("k8s")
    files = [folder / name for name in TOP_FILES if (folder / name).is_file()]
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in NOT_APPLIED)
    for sub in (*folders, folder / OVERLAYS / backend):
        files += sorted(sub.rglob("*.yaml"))
    rules = data_path("k8s").parent / "rules"
    files += sorted(rules.glob("*.yaml")) if rules.is_dir() else []
    return in_order(obj for file in files for obj in read(file))


def read(file: Path) -> list[Object]:
    """Return the objects of one file.

    Raises
    ------
    InputError
        If it is no YAML or an object lacks kind, version or name.
    """
    try:
        documents = [document for document in yaml.load_all(file.read_text(), Loader=_LOADER) if document is not None]
    except (OSError, yaml.YAMLError) as exc:
        raise InputError(f"wanted Kubernetes objects in {file}, found: {exc}") from exc
    objects: list[Object] = []
    for document in documents:
        if isinstance(document, dict) and str(document.get("kind", "")).endswith("List"):
            objects += document.get("items") or []
        else:
            objects.append(document)
    for obj in objects:
        if not isinstance(obj, dict) or not all(
            (obj.get("apiVersion"), obj.get("kind"), (obj.get("metadata") or {}).get("name"))
        ):
            raise InputError(
                f"wanted apiVersion, kind and metadata.name in each document of {file}, found {obj!r:.200}"
            )
    return objects


def in_order(objects: Iterable[Object]) -> list[Object]:
    """Sort objects so that what others need comes first; within a kind the order stays."""

    def rank(obj: Object) -> tuple[int, str]:
        kind = obj["kind"]
        if kind in _FIRST:
            return _FIRST.index(kind), kind
        return (len(_FIRST) + 1 + _LAST.index(kind) if kind in _LAST else len(_FIRST)), kind

    return sorted(objects, key=rank)


# --- what differs between labs -------------------------------------------------------------------------


def for_local_lab(objects: Sequence[Object], config: LabConfig, *, epoch: float, authority: Authority) -> list[Object]:
    """Return the objects as a lab of host processes needs them, with those that exist in no file.

    Parameters
    ----------
    objects : sequence of object
        As :func:`load` gives them.
    config : LabConfig
        The lab.
    epoch : float
        Wall-clock time of lab time 0, seconds since 1970 (UTC).
    authority : Authority
        Signs the webhooks' certificates and the API server's client certificate.
    """
    patched = [copy.deepcopy(obj) for obj in objects]
    extra = [*_lab_config_maps(patched, config, epoch=epoch), host_node()]
    for service, client in _webhook_clients(patched):
        client["url"] = f"https://{config.address}:{_port_behind(patched, service)}{service.get('path', '/')}"
        client["caBundle"] = _base64(authority.pair.certificate)
        del client["service"]
        extra.append(tls_secret(service["namespace"], service["name"], address=config.address, authority=authority))
    return in_order([*patched, *extra])


def for_kind_lab(
    objects: Sequence[Object],
    config: LabConfig,
    *,
    epoch: float,
    authority: Authority,
    images: Mapping[str, str],
    kwok_configuration: str,
) -> list[Object]:
    """Return the objects as a lab of containers needs them, with those that exist in no file.

    The API server calls a webhook through its Service there, and shows no certificate. What speaks plain HTTP is
    opened on the node, from where kind leads it to the lab's address.

    Parameters
    ----------
    objects : sequence of object
        As :func:`load` gives them for ``kind``.
    config : LabConfig
        The lab.
    epoch : float
        Wall-clock time of lab time 0, seconds since 1970 (UTC).
    authority : Authority
        Signs the webhooks' certificates.
    images : Mapping
        From an image's name in the files to the one that the node has.
    kwok_configuration : str
        KWOK's options and stages.
    """
    patched = [copy.deepcopy(obj) for obj in objects]
    extra = [*_lab_config_maps(patched, config, epoch=epoch), _kwok_config_map(kwok_configuration)]
    for service, client in _webhook_clients(patched):
        client["caBundle"] = _base64(authority.pair.certificate)
        extra.append(tls_secret(service["namespace"], service["name"], address=None, authority=authority))
    for obj in patched:
        if obj["kind"] not in WORKLOADS:
            continue
        pod = obj["spec"]["template"]["spec"]
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            container["image"] = images.get(container["image"], container["image"])
            for port in container.get("ports", ()):
                if port.get("name") == OPEN_PORT:
                    port.setdefault("hostPort", port["containerPort"])
    return in_order([*patched, *extra])


def _webhook_clients(objects: Iterable[Object]) -> Iterator[tuple[Object, Object]]:
    """Yield the Service that each webhook is reached by, and the ``clientConfig`` that names it."""
    for obj in objects:
        if obj["kind"] in _WEBHOOKS:
            for webhook in obj.get("webhooks") or ():
                client = webhook["clientConfig"]
                if "service" in client:
                    yield client["service"], client


def _lab_config_maps(objects: Iterable[Object], config: LabConfig, *, epoch: float) -> list[Object]:
    """Return a ConfigMap ``lab`` for each namespace that runs something of the lab's own."""
    namespaces = {
        obj["metadata"]["namespace"] for obj in objects if obj["kind"] in WORKLOADS and _takes_lab_values(obj)
    }
    return [lab_config_map(namespace, config, epoch=epoch) for namespace in sorted(namespaces)]


def _takes_lab_values(workload: Object) -> bool:
    containers = workload["spec"]["template"]["spec"]["containers"]
    sources = (source for container in containers for source in container.get("envFrom", ()))
    return any(source.get("configMapRef", {}).get("name") == LAB_CONFIG_MAP for source in sources)


def _kwok_config_map(configuration: str) -> Object:
    """Return what KWOK's pod reads: the same options and stages as on ``local``."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "kwok", "namespace": "kube-system"},
        "data": {"kwok.yaml": configuration},
    }


def lab_config_map(namespace: str, config: LabConfig, *, epoch: float) -> Object:
    """Return the ConfigMap ``lab``, which the add-ons take their environment from."""

    def interval(seconds: float) -> str:
        return format_duration(wall_seconds(seconds, config.tempo))

    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": LAB_CONFIG_MAP, "namespace": namespace},
        "data": {
            LISTEN_ADDRESS_KEY: config.address if config.backend == "local" else "0.0.0.0",
            TEMPO_KEY: str(config.tempo),
            EPOCH_KEY: repr(epoch),
            SCRAPE_INTERVAL_KEY: interval(SCRAPE_INTERVAL_SECONDS),
            EVALUATION_INTERVAL_KEY: interval(EVALUATION_INTERVAL_SECONDS),
            DESCHEDULING_INTERVAL_KEY: interval(DESCHEDULING_INTERVAL_SECONDS),
            LOOKBACK_KEY: interval(LOOKBACK_SECONDS),
        },
    }


def host_node() -> Object:
    """Return the node on which the add-ons run; its agent writes the status."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": HOST_NODE,
            "labels": {HOSTNAME_LABEL: HOST_NODE, "kubernetes.io/os": "linux", ADDON_NODE_LABEL: "true"},
        },
        "spec": {"taints": [{"key": ADDON_NODE_TAINT, "value": "true", "effect": "NoSchedule"}]},
    }


def tls_secret(namespace: str, service: str, *, address: str | None, authority: Authority) -> Object:
    """Return the Secret with a webhook's serving certificate and the authority of those who may call it.

    Without an address the webhook is called through its Service, by an API server that shows no certificate.
    """
    names = [f"{service}.{namespace}.svc", f"{service}.{namespace}", service]
    hosts = [address, *names] if address is not None else names
    pair: Pair = authority.issue(f"{service}.{namespace}.svc", hosts=hosts)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": f"{service}-tls", "namespace": namespace},
        "type": "Opaque",
        "data": {
            "tls.crt": _base64(pair.certificate),
            "tls.key": _base64(pair.key),
            "client-ca.crt": _base64(authority.pair.certificate) if address is not None else "",
        },
    }


def _port_behind(objects: Sequence[Object], reference: Object) -> int:
    """Return the port at which the pod behind a Service listens."""
    where = reference["namespace"], reference["name"]
    service = next(
        (
            obj
            for obj in objects
            if obj["kind"] == "Service" and (obj["metadata"].get("namespace"), obj["metadata"]["name"]) == where
        ),
        None,
    )
    wanted = reference.get("port", 443)
    entry = next((e for e in (service or {}).get("spec", {}).get("ports", ()) if e["port"] == wanted), None)
    if service is None or entry is None:
        raise InputError(f"a webhook wants port {wanted} of Service {'/'.join(where)}, found none in k8s/")
    target = entry.get("targetPort", entry["port"])
    if isinstance(target, int):
        return target
    selector = service["spec"]["selector"].items()
    for obj in objects:
        if obj["kind"] in WORKLOADS and selector <= obj["spec"]["template"]["metadata"]["labels"].items():
            for container in obj["spec"]["template"]["spec"]["containers"]:
                for port in container.get("ports", ()):
                    if port.get("name") == target:
                        return int(port["containerPort"])
    raise InputError(f"Service {'/'.join(where)} leads to port {target!r}, found no container port of that name")


# --- applying ------------------------------------------------------------------------------------------


class AppliedObjects:
    """Remembers what was applied, so that a second ``up`` undoes no change that somebody made since.

    Parameters
    ----------
    file : Path
        One digest per object.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._digests: dict[str, str] = json.loads(file.read_text())
        except (OSError, ValueError):
            self._digests = {}

    def is_current(self, obj: Object) -> bool:
        """Whether this very object was applied before; a certificate made anew counts as the same."""
        return self._digests.get(_label(obj)) == _digest(obj)

    def remember(self, objects: Iterable[Object]) -> None:
        """Note that these objects were applied."""
        self._digests |= {_label(obj): _digest(obj) for obj in objects}
        write_whole(self._file, json.dumps(self._digests, indent=1))


def apply(
    kube: Kube,
    objects: Sequence[Object],
    *,
    applied: AppliedObjects,
    timeout_seconds: float,
    say: Callable[[str], None],
) -> int:
    """Apply what is missing or has changed in its file since it was last applied.

    Parameters
    ----------
    kube : Kube
        The lab's API server.
    objects : sequence of object
        In the order of applying.
    applied : AppliedObjects
        What was applied before.
    timeout_seconds : float
        How long to keep trying where a webhook or a new kind is not served yet.
    say : callable
        Is told what is being done.

    Returns
    -------
    int
        How many objects were applied.
    """
    count = 0
    with ThreadPoolExecutor(_PARALLEL) as pool:
        for kind, group in groupby(objects, key=lambda obj: str(obj["kind"])):
            same_kind = list(group)
            done = list(pool.map(lambda obj: _apply_one(kube, obj, applied, timeout_seconds), same_kind))
            changed = [obj for obj, was_applied in zip(same_kind, done, strict=True) if was_applied]
            count += len(changed)
            if changed:
                applied.remember(changed)
                say(f"applied {len(changed)} {kind}")
    return count


def _apply_one(kube: Kube, obj: Object, applied: AppliedObjects, timeout_seconds: float) -> bool:
    last: list[KubeError] = []

    def attempt() -> str | None:
        try:
            if applied.is_current(obj) and _exists(kube, obj):
                return _THERE
            _write(kube, obj)
        except KubeError as error:
            if not _may_pass(error):
                raise KubeError(f"{_label(obj)}: {error}", status=error.status, reason=error.reason) from error
            last[:] = [error]
            return None
        return _APPLIED

    done = wait_until(
        attempt,
        timeout_seconds=timeout_seconds,
        what=f"the API server to take {_label(obj)}",
        found=lambda: str(last[0]),
    )
    return done == _APPLIED


def _write(kube: Kube, obj: Object) -> None:
    if obj["kind"] == "Node" and "status" in obj:
        kube.apply({key: value for key, value in obj.items() if key != "status"})
        kube.patch(NODES, obj["metadata"]["name"], {"status": obj["status"]}, subresource="status")
        return
    kube.apply(obj)
    if obj["kind"] == "CustomResourceDefinition":
        wait_until(
            lambda: _is_established(kube.get(CUSTOM_RESOURCE_DEFINITIONS, obj["metadata"]["name"])),
            timeout_seconds=30.0,
            what=f"the API server to serve {obj['metadata']['name']}",
        )


def _exists(kube: Kube, obj: Object) -> bool:
    resource = kube.resource_of(obj["apiVersion"], obj["kind"])
    namespace = obj["metadata"].get("namespace", "default") if resource.namespaced else None
    return kube.find(resource, obj["metadata"]["name"], namespace) is not None


def _may_pass(error: KubeError) -> bool:
    """Whether the same request may succeed a moment later: a kind or a webhook that is not served yet."""
    return error.may_pass or error.status in (404, 409)


def _is_established(definition: Object) -> bool:
    conditions = definition.get("status", {}).get("conditions") or ()
    return any(entry["type"] == "Established" and entry["status"] == "True" for entry in conditions)


def _label(obj: Object) -> str:
    metadata = obj["metadata"]
    return "/".join(part for part in (obj["kind"], metadata.get("namespace"), metadata["name"]) if part)


def _digest(obj: Object) -> str:
    if obj["kind"] == "Secret" and obj["metadata"]["name"].endswith("-tls"):
        obj = {key: value for key, value in obj.items() if key != "data"}
    return hashlib.sha256(json.dumps(obj, sort_keys=True, default=str).encode()).hexdigest()


def _base64(text: str) -> str:
    from base64 import b64encode

    return b64encode(text.encode()).decode()
