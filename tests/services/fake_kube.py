"""A small API server in memory: what the services need of :class:`labkit.kube.Kube`, with its preconditions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from labkit.clock import VirtualClock
from labkit.errors import KubeError
from labkit.kube import PODS, Object, Resource
from labkit.virtualmachine import format_time

Id = tuple[str, str, str]


class Crash(BaseException):
    """The process dies here: no handler of it runs on."""


class FakeKube:
    """Objects by resource, namespace and name; each write has a new resource version."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.objects: dict[Id, Object] = {}
        self.version = 0
        self.writes: list[tuple[str, str, str]] = []
        self.reads: list[tuple[str, str]] = []
        self.events: list[tuple[str, str, str]] = []
        self.refuses: Callable[[str, Resource, str], KubeError | None] = lambda verb, resource, name: None
        self.crash_after: int | None = None
        self.subscribers: list[Callable[[Resource, Object | None, Object | None], None]] = []

    # --- what a test does ---------------------------------------------------------------------------

    def put(self, resource: Resource, obj: Object) -> Object:
        """Create or replace an object, as somebody else."""
        metadata = obj["metadata"]
        key = (resource.plural, metadata.get("namespace", ""), metadata["name"])
        old = self.objects.get(key)
        self.version += 1
        new = copy.deepcopy(obj)
        new["metadata"] |= {
            "resourceVersion": str(self.version),
            "uid": old["metadata"]["uid"] if old else metadata.get("uid") or f"uid-{self.version}",
            "creationTimestamp": (old or {"metadata": {}})["metadata"].get(
                "creationTimestamp", format_time(self.clock.now())
            ),
        }
        self.objects[key] = new
        self._tell(resource, old, new)
        return copy.deepcopy(new)

    def remove(self, resource: Resource, name: str, namespace: str = "default") -> None:
        """Take an object away, as somebody else."""
        old = self.objects.pop((resource.plural, namespace, name), None)
        if old is not None:
            self.version += 1
            self._tell(resource, old, None)

    def change(self, resource: Resource, name: str, patch: Mapping[str, Any], namespace: str = "default") -> Object:
        """Merge-patch an object, as somebody else, status included."""
        old = self.objects[resource.plural, namespace, name]
        return self.put(resource, merged(old, patch))

    def all(self, resource: Resource) -> list[Object]:
        return [copy.deepcopy(obj) for (plural, _, _), obj in self.objects.items() if plural == resource.plural]

    # --- what a service does ------------------------------------------------------------------------

    def find(self, resource: Resource, name: str, namespace: str | None = None) -> Object | None:
        self.reads.append(("find", name))
        self._maybe_refuse("get", resource, name)
        found = self.objects.get((resource.plural, namespace or "", name))
        return copy.deepcopy(found)

    def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        found = self.find(resource, name, namespace)
        if found is None:
            raise KubeError(f'{resource.plural} "{name}" not found', status=404, reason="NotFound")
        return found

    def create(self, resource: Resource, obj: Mapping[str, Any], namespace: str | None = None) -> Object:
        name = obj["metadata"]["name"]
        self._maybe_refuse("create", resource, name)
        key = (resource.plural, namespace or obj["metadata"].get("namespace", ""), name)
        if key in self.objects:
            raise KubeError(f'{resource.plural} "{name}" already exists', status=409, reason="AlreadyExists")
        fresh = copy.deepcopy(dict(obj))
        if resource is PODS:
            fresh.setdefault("status", {"phase": "Pending"})
        return self._written("create", resource, name, lambda: self.put(resource, fresh))

    def patch(
        self,
        resource: Resource,
        name: str,
        patch: Any,
        namespace: str | None = None,
        *,
        kind: str = "merge",
        subresource: str | None = None,
        dry_run: bool = False,
    ) -> Object:
        assert kind == "merge"
        self._maybe_refuse("patch", resource, name)
        old = self.objects.get((resource.plural, namespace or "", name))
        if old is None:
            raise KubeError(f'{resource.plural} "{name}" not found', status=404, reason="NotFound")
        for field in ("uid", "resourceVersion"):
            wanted = patch.get("metadata", {}).get(field)
            if wanted is not None and wanted != old["metadata"][field]:
                raise KubeError("the object has been modified", status=409, reason="Conflict")
        if subresource == "status":
            new = old | {"status": merged(old.get("status", {}), patch.get("status", {}))}
        else:
            new = merged(old, patch) | ({"status": old["status"]} if "status" in old else {})
        if new == old or dry_run:
            return copy.deepcopy(new)
        what = f"patch {subresource}" if subresource else "patch"
        return self._written(what, resource, name, lambda: self.put(resource, new))

    def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        grace_period_seconds: int | None = None,
    ) -> None:
        self._maybe_refuse("delete", resource, name)
        old = self.objects.get((resource.plural, namespace or "", name))
        if old is None:
            return
        if uid is not None and uid != old["metadata"]["uid"]:
            raise KubeError("the UID in the precondition does not match", status=409, reason="Conflict")
        if grace_period_seconds == 0:
            self._written("delete", resource, name, lambda: self.remove(resource, name, namespace or "") or {})
            return
        doomed = merged(old, {"metadata": {"deletionTimestamp": format_time(self.clock.now())}})
        self._written("delete", resource, name, lambda: self.put(resource, doomed))

    def record_event(
        self, involved: Mapping[str, Any], *, reason: str, message: str, component: str, warning: bool = False
    ) -> None:
        self.events.append((involved["metadata"]["name"], reason, message))

    # --- inside -------------------------------------------------------------------------------------

    def _written(self, verb: str, resource: Resource, name: str, do: Callable[[], Object]) -> Object:
        answer = do()
        self.writes.append((verb, resource.plural, name))
        if self.crash_after is not None and len(self.writes) >= self.crash_after:
            raise Crash
        return answer

    def _maybe_refuse(self, verb: str, resource: Resource, name: str) -> None:
        error = self.refuses(verb, resource, name)
        if error is not None:
            raise error

    def _tell(self, resource: Resource, old: Object | None, new: Object | None) -> None:
        for subscriber in self.subscribers:
            subscriber(resource, copy.deepcopy(old), copy.deepcopy(new))


class FakeStore:
    """A mirror of one resource; a test can hold it back, and then let it catch up."""

    def __init__(self, kube: FakeKube, resource: Resource) -> None:
        self.resource = resource
        self.objects: dict[tuple[str, str], Object] = {}
        self.subscribers: list[Callable[[Object | None, Object | None], None]] = []
        self.backlog: list[tuple[Object | None, Object | None]] = []
        self.is_held = False
        for obj in kube.all(resource):
            self.objects[obj["metadata"].get("namespace", ""), obj["metadata"]["name"]] = obj
        kube.subscribers.append(self._hear)

    def hold(self) -> None:
        self.is_held = True

    def catch_up(self) -> None:
        self.is_held = False
        backlog, self.backlog = self.backlog, []
        for old, new in backlog:
            self._apply(old, new)

    def subscribe(self, subscriber: Callable[[Object | None, Object | None], None]) -> None:
        self.subscribers.append(subscriber)

    def get(self, namespace: str, name: str) -> Object | None:
        return self.objects.get((namespace, name))

    def items(self) -> list[Object]:
        return list(self.objects.values())

    def __len__(self) -> int:
        return len(self.objects)

    def _hear(self, resource: Resource, old: Object | None, new: Object | None) -> None:
        if resource is not self.resource:
            return
        if self.is_held:
            self.backlog.append((old, new))
        else:
            self._apply(old, new)

    def _apply(self, old: Object | None, new: Object | None) -> None:
        metadata = (new or old or {})["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        if new is None:
            self.objects.pop(key, None)
        else:
            self.objects[key] = new
        for subscriber in self.subscribers:
            subscriber(old, new)


def merged(old: Any, patch: Any) -> Any:
    """Return the result of a JSON merge patch (RFC 7386)."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    result = copy.deepcopy(dict(old)) if isinstance(old, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result
