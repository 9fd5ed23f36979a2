"""The only door to the Kubernetes API.

Objects are plain dicts straight from JSON: the typed client costs ten times their memory. The official client
is used for what it knows best, reading kubeconfigs and the credentials in them. A pod's own credentials are two files,
and are read without it: its five hundred modules are most of what a small service would load at its start.

:class:`Kube` is one API server with one identity, :class:`Store` a watch-fed mirror of one resource. Nothing here
retries a write: whoever writes decides what a conflict means.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote, urlencode

import orjson
import urllib3

from labkit.clock import WALL_CLOCK, backoff_seconds, wait_until
from labkit.errors import KubeError
from labkit.names import GROUP, SCENARIO_PLURAL, VM_PLURAL
from labkit.versions import SIMULATION_API_VERSION

logger = logging.getLogger(__name__)

Object = dict[str, Any]
Key = tuple[str, str]
"""Namespace ('' for cluster-scoped objects) and name."""
Trim = Callable[[Object], Object]
"""From an object to the part of it that is worth its memory."""
Subscriber = Callable[[Object | None, Object | None], None]
"""Called with the object before and after; None before it was there and after it is gone."""

FIELD_MANAGER: Final = "labkit"
PATCH_TYPES: Final = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "strategic": "application/strategic-merge-patch+json",
}
CONNECT_TIMEOUT_SECONDS: Final = 5.0
REQUEST_TIMEOUT_SECONDS: Final = 30.0
LIST_TIMEOUT_SECONDS: Final = 120.0
WATCH_SECONDS: Final = 240
WATCH_SILENCE_SECONDS: Final = 90.0
"""The API server sends a bookmark about once a minute; a watch silent for longer is taken for dead."""
BACKOFF_SECONDS: Final = (0.1, 5.0)
CONNECTIONS: Final = 32
SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_SECONDS: Final = 60.0
"""A token on disk is read again after that long, as client-go does: it is renewed well before it ends."""
PAGE: Final = 500
"""Objects in a page of a long list, as in client-go: a few megabytes of JSON."""
GONE: Final = 410
TOO_MANY_REQUESTS: Final = 429


@dataclass(frozen=True)
class Resource:
    """One kind of object, as the API's paths name it."""

    group: str
    version: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """Return ``apiVersion`` as objects carry it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """Return the path of the collection, of one object, or of its subresource."""
        parts = ["/apis" if self.group else "/api", self.api_version]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace)]
        parts.append(self.plural)
        if name:
            parts.append(quote(name))
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


PODS: Final = Resource("", "v1", "pods")
NODES: Final = Resource("", "v1", "nodes", namespaced=False)
NAMESPACES: Final = Resource("", "v1", "namespaces", namespaced=False)
SERVICES: Final = Resource("", "v1", "services")
CONFIG_MAPS: Final = Resource("", "v1", "configmaps")
SECRETS: Final = Resource("", "v1", "secrets")
EVENTS: Final = Resource("", "v1", "events")
DEPLOYMENTS: Final = Resource("apps", "v1", "deployments")
LEASES: Final = Resource("coordination.k8s.io", "v1", "leases")
CUSTOM_RESOURCE_DEFINITIONS: Final = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", namespaced=False
)
VALIDATING_WEBHOOK_CONFIGURATIONS: Final = Resource(
    "admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations", namespaced=False
)
PROMETHEUS_RULES: Final = Resource("monitoring.coreos.com", "v1", "prometheusrules")
VIRTUAL_MACHINES: Final = Resource(GROUP, SIMULATION_API_VERSION, VM_PLURAL)
SIMULATION_SCENARIOS: Final = Resource(GROUP, SIMULATION_API_VERSION, SCENARIO_PLURAL)


def key_of(obj: Mapping[str, Any]) -> Key:
    """Return namespace and name of an object."""
    metadata = obj["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


class Kube:
    """One API server, reached with one identity. Safe to use from several threads.

    Parameters
    ----------
    server : str
        The API server's URL.
    pool : urllib3.PoolManager, optional
        The connections, with a client certificate in them where that is who we are.
    authorization : callable, optional
        Returns the ``Authorization`` header of the next request, or None.

    Notes
    -----
    Proxies are never used: the lab's API server is not behind one.
    """

    def __init__(
        self,
        server: str,
        pool: urllib3.PoolManager | None = None,
        *,
        authorization: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.server = server
        self._pool = pool or urllib3.PoolManager(maxsize=CONNECTIONS)
        self._authorization = authorization
        self._resources: dict[tuple[str, str], Resource] = {}

    @classmethod
    def from_kubeconfig(cls, path: Path | str) -> Kube:
        """Connect as a kubeconfig file says; it is never written.

        Raises
        ------
        KubeError
            If the file is missing or cannot be read.
        """
        from kubernetes.client import ApiClient, Configuration
        from kubernetes.config import ConfigException, load_kube_config

        configuration = Configuration()
        try:
            load_kube_config(config_file=str(path), client_configuration=configuration, persist_config=False)
        except (ConfigException, OSError) as exc:
            raise KubeError(f"wanted a kubeconfig at {path}, found: {exc}") from exc
        configuration.proxy = None
        configuration.retries = False
        configuration.connection_pool_maxsize = CONNECTIONS
        return cls(
            str(configuration.host),
            ApiClient(configuration).rest_client.pool_manager,
            authorization=lambda: configuration.get_api_key_with_prefix("BearerToken", alias="authorization"),
        )

    @classmethod
    def in_cluster(cls) -> Kube:
        """Connect as the pod's service account; the token is read anew when it was rotated.

        Raises
        ------
        KubeError
            If this process does not run in a pod.
        """
        host, port = (os.environ.get(f"KUBERNETES_SERVICE_{part}") for part in ("HOST", "PORT"))
        token, authority = SERVICE_ACCOUNT / "token", SERVICE_ACCOUNT / "ca.crt"
        if not (host and port and token.is_file() and authority.is_file()):
            raise KubeError(
                f"wanted a pod's service account: KUBERNETES_SERVICE_HOST and _PORT, and {token} and {authority}; "
                f"found host {host}, port {port}, " + ("the files" if token.is_file() else "no files")
            )
        pool = urllib3.PoolManager(maxsize=CONNECTIONS, cert_reqs="CERT_REQUIRED", ca_certs=str(authority))
        server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        return cls(server, pool, authorization=_Token(token).header)

    @classmethod
    def from_environment(cls) -> Kube:
        """Connect through ``KUBECONFIG`` where it is set, else as the pod's service account."""
        path = os.environ.get("KUBECONFIG")
        return cls.from_kubeconfig(path) if path else cls.in_cluster()

    # --- requests -----------------------------------------------------------------------------------

    def open(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
    ) -> urllib3.BaseHTTPResponse:
        """Send one request and return the response with its body unread.

        Raises
        ------
        KubeError
            If the server did not answer (status 0) or answered with an error.
        """
        headers = {"Accept": "application/json"}
        authorization = self._authorization()
        if authorization:
            headers["Authorization"] = authorization
        data: bytes | None = None
        if body is not None:
            headers["Content-Type"] = content_type
            data = body if isinstance(body, bytes) else orjson.dumps(body)
        url = f"{self.server}{path}"
        if query:
            url += f"?{urlencode(query)}"
        try:
            response = self._pool.request(
                method,
                url,
                body=data,
                headers=headers,
                preload_content=False,
                timeout=urllib3.Timeout(connect=min(CONNECT_TIMEOUT_SECONDS, timeout_seconds), read=timeout_seconds),
                retries=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise KubeError(f"the API server {self.server} did not answer {method} {path}: {exc}") from exc
        if response.status >= 400:
            raise _error_of(method, path, response)
        return response

    def raw(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
    ) -> bytes:
        """Send one request and return the body."""
        response = self.open(
            method, path, query=query, body=body, content_type=content_type, timeout_seconds=timeout_seconds
        )
        try:
            return response.data
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise KubeError(f"the answer to {method} {path} broke off: {exc}") from exc
        finally:
            response.release_conn()

    def request(self, method: str, path: str, **options: Any) -> Object:
        """Send one request and return the object in its answer; options as in :meth:`raw`."""
        answer: Object = orjson.loads(self.raw(method, path, **options))
        return answer

    def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        """Return one object."""
        return self.request("GET", resource.path(namespace, name))

    def find(self, resource: Resource, name: str, namespace: str | None = None) -> Object | None:
        """Return one object, or None where there is none."""
        try:
            return self.get(resource, name, namespace)
        except KubeError as error:
            if error.status == 404:
                return None
            raise

    def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        resource_version: str | None = None,
        exact: bool = False,
    ) -> Object:
        """Return the List object of a collection.

        Parameters
        ----------
        resource : Resource
            What to list.
        namespace : str, optional
            Where; everywhere without it.
        label_selector, field_selector : str
            As in the API.
        resource_version : str, optional
            Not older than this; with ``exact`` precisely this.
        exact : bool
            Ask for ``resourceVersionMatch=Exact``.
        """
        query = _selectors(label_selector, field_selector)
        if resource_version is not None:
            query["resourceVersion"] = resource_version
            query["resourceVersionMatch"] = "Exact" if exact else "NotOlderThan"
        return self.request("GET", resource.path(namespace), query=query, timeout_seconds=LIST_TIMEOUT_SECONDS)

    def pages(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = PAGE,
    ) -> Iterator[Object]:
        """Yield a collection as List objects of at most ``limit`` items, all as of one ``resourceVersion``.

        A page is asked for when the one before it has been taken: no more than one of them need be in memory.

        Raises
        ------
        KubeError
            Also when the server has forgotten that version meanwhile (410: begin anew).
        """
        query = _selectors(label_selector, field_selector) | {"limit": str(limit)}
        while True:
            page = self.request("GET", resource.path(namespace), query=query, timeout_seconds=LIST_TIMEOUT_SECONDS)
            token = page["metadata"].get("continue")
            yield page
            if not token:
                return
            query["continue"] = token

    def create(
        self,
        resource: Resource,
        obj: Mapping[str, Any],
        namespace: str | None = None,
        *,
        name: str | None = None,
        subresource: str | None = None,
    ) -> Object:
        """Create an object, or POST to a subresource of the object ``name``."""
        where = namespace or obj["metadata"].get("namespace")
        return self.request("POST", resource.path(where, name, subresource), body=dict(obj))

    def replace(self, resource: Resource, obj: Mapping[str, Any], *, subresource: str | None = None) -> Object:
        """Replace an object; its ``resourceVersion``, where present, must still be current."""
        namespace, name = key_of(obj)
        return self.request("PUT", resource.path(namespace, name, subresource), body=dict(obj))

    def patch(
        self,
        resource: Resource,
        name: str,
        patch: Any,
        namespace: str | None = None,
        *,
        kind: Literal["merge", "json", "strategic"] = "merge",
        subresource: str | None = None,
        dry_run: bool = False,
    ) -> Object:
        """Patch an object; ``metadata.resourceVersion`` and ``metadata.uid`` in a merge patch are preconditions."""
        return self.request(
            "PATCH",
            resource.path(namespace, name, subresource),
            body=patch,
            content_type=PATCH_TYPES[kind],
            query={"dryRun": "All"} if dry_run else None,
        )

    def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        grace_period_seconds: int | None = None,
    ) -> None:
        """Delete an object; ``uid`` and ``resource_version`` are preconditions.

        An object that is gone already is no error.
        """
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if grace_period_seconds is not None:
            options["gracePeriodSeconds"] = grace_period_seconds
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        if uid or resource_version:
            options["preconditions"] = {k: v for k, v in preconditions.items() if v}
        try:
            self.raw("DELETE", resource.path(namespace, name), body=options)
        except KubeError as error:
            if error.status != 404:
                raise

    def apply(self, obj: Mapping[str, Any], *, field_manager: str = FIELD_MANAGER) -> Object:
        """Apply any manifest by server-side apply; fields that another manager owns are taken over."""
        resource = self.resource_of(obj["apiVersion"], obj["kind"])
        namespace = obj["metadata"].get("namespace", "default") if resource.namespaced else None
        return self.request(
            "PATCH",
            resource.path(namespace, obj["metadata"]["name"]),
            body=dict(obj),
            content_type="application/apply-patch+yaml",
            query={"fieldManager": field_manager, "force": "true"},
        )

    def resource_of(self, api_version: str, kind: str) -> Resource:
        """Return the resource of a kind, from the server's discovery.

        Raises
        ------
        KubeError
            If the server does not serve that kind (status 404).
        """
        known = self._resources.get((api_version, kind))
        if known is not None:
            return known
        prefix = "/apis" if "/" in api_version else "/api"
        group, _, version = api_version.rpartition("/")
        for entry in self.request("GET", f"{prefix}/{api_version}")["resources"]:
            if "/" not in entry["name"]:
                resource = Resource(group, version, entry["name"], entry["namespaced"])
                self._resources[api_version, entry["kind"]] = resource
        found = self._resources.get((api_version, kind))
        if found is None:
            raise KubeError(f"the API server serves no kind {kind} in {api_version}", status=404)
        return found

    def record_event(
        self,
        involved: Mapping[str, Any],
        *,
        reason: str,
        message: str,
        component: str,
        warning: bool = False,
        action: str = "",
    ) -> None:
        """Record an event about an object; a failure is logged, never raised, as in client-go's recorder."""
        metadata = involved["metadata"]
        namespace = metadata.get("namespace", "default")
        now = _rfc3339_micro(WALL_CLOCK.now())
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{metadata['name']}.{random.getrandbits(64):016x}",
                "namespace": namespace,
            },
            "involvedObject": {
                "apiVersion": involved.get("apiVersion"),
                "kind": involved.get("kind"),
                "name": metadata["name"],
                "namespace": metadata.get("namespace"),
                "uid": metadata.get("uid"),
            },
            "reason": reason,
            "message": message[:1024],
            "type": "Warning" if warning else "Normal",
            "source": {"component": component},
            "reportingComponent": component,
            "reportingInstance": component,
            "action": action or reason,
            "eventTime": now,
            "firstTimestamp": now[:19] + "Z",
            "lastTimestamp": now[:19] + "Z",
            "count": 1,
        }
        try:
            self.create(EVENTS, event, namespace)
        except KubeError as error:
            logger.warning("event %s about %s not recorded: %s", reason, metadata["name"], error)

    # --- watching -----------------------------------------------------------------------------------

    def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str,
        label_selector: str = "",
        field_selector: str = "",
    ) -> Iterator[tuple[str, Object]]:
        """Yield ``(type, object)`` of each change after ``resource_version`` until the server ends the watch.

        Bookmarks are yielded too. An error event is raised as :class:`KubeError` (410: list again).
        """
        query = _selectors(label_selector, field_selector) | {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(WATCH_SECONDS + random.randrange(60)),
        }
        response = self.open("GET", resource.path(namespace), query=query, timeout_seconds=WATCH_SILENCE_SECONDS)
        rest = b""
        try:
            for chunk in response.stream(2**16):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if not line:
                        continue
                    event = orjson.loads(line)
                    if event["type"] == "ERROR":
                        status = event["object"]
                        raise KubeError(
                            str(status.get("message", "watch error")),
                            status=int(status.get("code", 0)),
                            reason=str(status.get("reason", "")),
                        )
                    yield event["type"], event["object"]
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise KubeError(f"the watch of {resource.plural} broke off: {exc}") from exc
        finally:
            response.close()


class _Token:
    """A pod's token, which is renewed on disk while the pod runs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at = float("-inf")
        self._header = ""

    def header(self) -> str:
        """Return the ``Authorization`` header."""
        now = WALL_CLOCK.monotonic()
        if now - self._read_at > TOKEN_SECONDS:
            self._header = f"Bearer {self._path.read_text().strip()}"
            self._read_at = now
        return self._header


class Store:
    """A mirror of one resource, kept current by a watch in a thread of its own.

    Parameters
    ----------
    kube : Kube
        The API server.
    resource : Resource
        What to mirror.
    namespace : str, optional
        Where; everywhere without it.
    label_selector, field_selector : str
        As in the API.
    trim : callable, optional
        Takes off what nobody here reads before an object is kept and told of. Namespace, name, ``uid`` and
        ``resourceVersion`` must stay.

    Notes
    -----
    ``managedFields`` are dropped: they are half of an object's size. Objects are replaced, never changed, so a
    reader may keep one. Lists are read page by page, and each object is trimmed as its page is read. After a broken
    watch the store resumes where it was; after ``410 Gone``, or a server whose history went back (a restored etcd), it
    lists again and reports the differences. While the server is away the store keeps what it saw last: it never looks
    empty because of an error.
    """

    def __init__(
        self,
        kube: Kube,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        trim: Trim | None = None,
    ) -> None:
        self._kube = kube
        self._trim = trim or _slim
        self._resource = resource
        self._namespace = namespace
        self._label_selector = label_selector
        self._field_selector = field_selector
        self._lock = threading.Lock()
        self._objects: dict[Key, Object] = {}
        self._subscribers: list[Subscriber] = []
        self._synced = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch-{resource.plural}", daemon=True)
        self._resource_version = ""
        self._tell_all = True
        self._failures = 0

    def start(self) -> Store:
        """Begin to mirror; subscribe before, to see every object."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop mirroring; the thread ends with its current request."""
        self._stopped.set()

    @property
    def synced(self) -> bool:
        """Whether the first list has been read."""
        return self._synced.is_set()

    @property
    def current(self) -> bool:
        """Whether it mirrors what is there now: the server has told something since a request last failed."""
        return self.synced and not self._failures

    def wait_synced(self, timeout_seconds: float = 60.0) -> Store:
        """Wait for the first list.

        Raises
        ------
        NotReadyError
            If it did not come in time.
        """
        wait_until(
            lambda: self._synced.is_set(),
            timeout_seconds=timeout_seconds,
            what=f"the first list of {self._resource.plural}",
        )
        return self

    def get(self, namespace: str, name: str) -> Object | None:
        """Return the object of that name as last seen, or None."""
        return self._objects.get((namespace, name))

    def items(self) -> list[Object]:
        """Return all objects as last seen."""
        with self._lock:
            return list(self._objects.values())

    def __len__(self) -> int:
        return len(self._objects)

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call ``subscriber(old, new)`` for each change, one after another, in the store's thread."""
        self._subscribers.append(subscriber)

    # --- the thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                if not self._resource_version:
                    self._relist()
                self._follow()
            except KubeError as error:
                # 410: too old; 504: newer than the server knows, so its history went back; 4xx: not allowed (yet).
                if (400 <= error.status < 500 and error.status != TOO_MANY_REQUESTS) or error.status == 504:
                    self._resource_version = ""
                expected = error.status in (0, GONE, TOO_MANY_REQUESTS) or error.status >= 500
                logger.log(
                    logging.INFO if expected else logging.WARNING,
                    "watch of %s interrupted: %s",
                    self._resource.plural,
                    error,
                )
                self._pause()
            except Exception:
                # A subscriber failed: its state may be wrong now, so everything is told anew.
                logger.exception("subscriber of %s failed", self._resource.plural)
                self._resource_version = ""
                self._tell_all = True
                self._pause()

    def _pause(self) -> None:
        self._failures += 1
        self._stopped.wait(backoff_seconds(self._failures, BACKOFF_SECONDS) * random.uniform(0.5, 1.0))

    def _relist(self) -> None:
        fresh: dict[Key, Object] = {}
        version = ""
        pages = self._kube.pages(
            self._resource,
            self._namespace,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
        )
        for page in pages:
            version = page["metadata"]["resourceVersion"]
            kind = page["kind"].removesuffix("List")
            for obj in page["items"] or ():
                obj.setdefault("apiVersion", page["apiVersion"])
                obj.setdefault("kind", kind)
                key = key_of(obj)
                known = self._objects.get(key)
                fresh[key] = known if known is not None and _same_version(known, obj) else self._trim(obj)
        # Nothing is told before the last page: of half a list, what is missing would look deleted.
        for key in [key for key in self._objects if key not in fresh]:
            self._set(key, None)
        for key, obj in fresh.items():
            self._set(key, obj)
        self._resource_version = version
        self._tell_all = False
        self._failures = 0
        self._synced.set()

    def _follow(self) -> None:
        events = self._kube.watch(
            self._resource,
            self._namespace,
            resource_version=self._resource_version,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
        )
        for kind, obj in events:
            if self._stopped.is_set():
                return
            if kind != "BOOKMARK":
                self._set(key_of(obj), None if kind == "DELETED" else self._trim(obj))
            self._resource_version = obj["metadata"]["resourceVersion"]
            self._failures = 0

    def _set(self, key: Key, new: Object | None) -> None:
        with self._lock:
            old = self._objects.get(key)
            if new is None:
                self._objects.pop(key, None)
            else:
                self._objects[key] = new
        if (old is None and new is None) or (_same_version(old, new) and not self._tell_all):
            return
        for subscriber in self._subscribers:
            subscriber(old, new)


def only(*fields: str) -> Trim:
    """Return a trim that keeps an object's metadata and these fields, such as ``status.phase``."""
    wanted = [field.split(".") for field in fields]

    def trim(obj: Object) -> Object:
        kept: Object = {name: obj[name] for name in ("apiVersion", "kind", "metadata") if name in obj}
        for *parents, name in wanted:
            source, target = obj, kept
            for parent in parents:
                source, target = source.get(parent) or {}, target.setdefault(parent, {})
            if name in source:
                target[name] = source[name]
        return _slim(kept)

    return trim


def _selectors(label_selector: str, field_selector: str) -> dict[str, str]:
    pairs = {"labelSelector": label_selector, "fieldSelector": field_selector}
    return {name: value for name, value in pairs.items() if value}


def _same_version(old: Object | None, new: Object | None) -> bool:
    if old is None or new is None:
        return False
    before, after = old["metadata"], new["metadata"]
    return (before["uid"], before["resourceVersion"]) == (after["uid"], after["resourceVersion"])


def _slim(obj: Object) -> Object:
    obj["metadata"].pop("managedFields", None)
    return obj


def _error_of(method: str, path: str, response: urllib3.BaseHTTPResponse) -> KubeError:
    try:
        text = response.data
    except (urllib3.exceptions.HTTPError, OSError):
        text = b""
    finally:
        response.release_conn()
    try:
        status = orjson.loads(text)
        message, reason = status["message"], status.get("reason", "")
    except (orjson.JSONDecodeError, KeyError, TypeError):
        message, reason = f"{method} {path}: {text[:500].decode(errors='replace')}", ""
    return KubeError(str(message), status=response.status, reason=str(reason))


def _rfc3339_micro(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
