"""Which answer an eviction gets: KubeVirt's decision table, in its order and with its words.

==  =====================================================  ==========================================================
 #  condition                                              answer
==  =====================================================  ==========================================================
 1  the pod is gone                                        allow (the API server then answers 404 by itself)
 2  no launcher pod, or it has ended                       allow
 3  the pod does not say which VM it is                    allow
 4  the VM cannot be read                                  429 ``kubevirt failed getting the vmi: …``
 5  the VM has no strategy                                 allow
 6  ``LiveMigrate``, and it cannot be migrated             429 ``VMI … is configured with an eviction strategy but …``
 7  ``None``; ``LiveMigrateIfPossible``, and it cannot be  allow
 8  it is marked already                                   429 ``Evacuation in progress: Eviction triggered …``
 9  it does not run on the pod's node                      429 ``Eviction request for target Pod``
10  the eviction cannot be read                            429 ``failed to parse the eviction object: …``
11  it cannot be marked                                    429 ``kubevirt failed marking the vmi for eviction: …``
12  it is marked now                                       429 ``Eviction triggered evacuation of VMI "…"``
==  =====================================================  ==========================================================

The descheduler knows an eviction in the background by ``Eviction triggered evacuation`` in the text of a 429, so row 8
makes a repeated request harmless. No answer carries ``retryAfterSeconds``: client-go would repeat the call by itself.

One departure: KubeVirt allows an eviction whenever it cannot read the pod; here only a pod that does not exist is
allowed, and any other failure refuses, since an eviction that is allowed by accident kills a VM.

References
----------
KubeVirt ``pkg/virt-api/webhooks/validating-webhook/admitters/pod-eviction-admitter.go``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from labkit.errors import InputError
from labkit.names import (
    DESCHEDULER_REQUESTER,
    DOMAIN_ANNOTATION,
    LAUNCHER_LABEL,
    LAUNCHER_LABEL_VALUE,
)
from labkit.virtualmachine import VirtualMachine

API_VERSION: Final = "admission.k8s.io/v1"
TOO_MANY_REQUESTS: Final = 429
REQUESTED_BY_ANNOTATION: Final = "requested-by"
DRY_RUN_ALL: Final = "All"
DESCHEDULER: Final = "descheduler"

Result = Literal["allowed", "marked", "in_progress", "target", "not_migratable", "error"]


@dataclass(frozen=True)
class Review:
    """An admission review of an eviction.

    Parameters
    ----------
    uid : str
        Goes back with the answer.
    namespace, pod : str
        Which pod is to be evicted.
    user : str
        Who asks.
    eviction : mapping or None
        The Eviction object; None where there is none that can be read.
    is_dry_run : bool
        Whether nothing may change.
    """

    uid: str
    namespace: str
    pod: str
    user: str
    eviction: Mapping[str, Any] | None
    is_dry_run: bool

    @classmethod
    def read(cls, body: Any) -> Review:
        """Read an AdmissionReview.

        Raises
        ------
        InputError
            If it is none, or none of ``pods/eviction``: then the registration is wrong, and to allow would be a guess.
        """
        try:
            request = body["request"]
            what = (request["resource"]["resource"], request.get("subResource", ""))
            uid, namespace, pod = str(request["uid"]), str(request["namespace"]), str(request["name"])
        except (KeyError, TypeError) as exc:
            raise InputError(f"wanted an AdmissionReview of {API_VERSION}, found no field {exc}") from exc
        if what != ("pods", "eviction"):
            raise InputError(f"wanted a review of pods/eviction, found one of {what[0]}/{what[1]}")
        user = request.get("userInfo") or {}
        eviction = request.get("object")
        readable = isinstance(eviction, Mapping) and isinstance(eviction.get("metadata", {}), Mapping)
        return cls(
            uid=uid,
            namespace=namespace,
            pod=pod,
            user=str(user.get("username", "")) if isinstance(user, Mapping) else "",
            eviction=eviction if readable else None,
            is_dry_run=bool(request.get("dryRun")) or (readable and _asks_for_dry_run(eviction)),
        )

    @property
    def source(self) -> str:
        """Return ``descheduler`` where it asks, else an empty string."""
        metadata = (self.eviction or {}).get("metadata") or {}
        annotations = metadata.get("annotations") or {}
        return DESCHEDULER if annotations.get(REQUESTED_BY_ANNOTATION) == DESCHEDULER_REQUESTER else ""


def _asks_for_dry_run(eviction: Mapping[str, Any]) -> bool:
    options = eviction.get("deleteOptions")
    stages = options.get("dryRun") if isinstance(options, Mapping) else None
    return isinstance(stages, list) and bool(stages) and stages[0] == DRY_RUN_ALL


@dataclass(frozen=True)
class Verdict:
    """An answer.

    Parameters
    ----------
    result : str
        In one word, for metrics and the record.
    message : str
        Why it is refused; empty where it is allowed.
    """

    result: Result
    message: str = ""

    @property
    def is_allowed(self) -> bool:
        """Whether the eviction goes on: it then deletes the pod."""
        return self.result == "allowed"


ALLOWED: Final = Verdict("allowed")


def domain_of(pod: Mapping[str, Any] | None) -> str | None:
    """Return the VM that a pod is, or None where its eviction is none of ours (rows 1 to 3)."""
    if pod is None:
        return None
    metadata = pod["metadata"]
    if (metadata.get("labels") or {}).get(LAUNCHER_LABEL) != LAUNCHER_LABEL_VALUE:
        return None
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return None
    domain = (metadata.get("annotations") or {}).get(DOMAIN_ANNOTATION)
    return str(domain) if domain else None


def judge(review: Review, pod: Mapping[str, Any], vm: VirtualMachine) -> Verdict | None:
    """Return the answer of rows 5 to 10, or None: mark the VM, then answer by :func:`marked`."""
    if not vm.eviction_strategy or vm.eviction_strategy == "None":
        return ALLOWED
    if vm.eviction_strategy == "LiveMigrate" and not vm.is_migratable:
        return Verdict(
            "not_migratable", f"VMI {vm.name} is configured with an eviction strategy but is not live-migratable"
        )
    if vm.eviction_strategy == "LiveMigrateIfPossible" and not vm.is_migratable:
        return ALLOWED
    if vm.is_marked:
        return Verdict("in_progress", f"Evacuation in progress: {marked(vm).message}")
    node = pod["spec"].get("nodeName") or ""
    if not node or vm.node_name != node:
        return Verdict("target", "Eviction request for target Pod")
    if review.eviction is None:
        return Verdict("error", "failed to parse the eviction object: it is no object with metadata")
    return None


def unreadable(error: Exception) -> Verdict:
    """Return the answer of row 4."""
    return Verdict("error", f"kubevirt failed getting the vmi: {error}")


def unmarkable(error: Exception) -> Verdict:
    """Return the answer of row 11."""
    return Verdict("error", f"kubevirt failed marking the vmi for eviction: {error}")


def marked(vm: VirtualMachine) -> Verdict:
    """Return the answer of row 12."""
    return Verdict("marked", f'Eviction triggered evacuation of VMI "{vm.namespace}/{vm.name}"')


def response(uid: str, verdict: Verdict) -> dict[str, Any]:
    """Return the AdmissionReview that carries an answer."""
    answer: dict[str, Any] = {"uid": uid, "allowed": verdict.is_allowed}
    if not verdict.is_allowed:
        answer["status"] = {"code": TOO_MANY_REQUESTS, "message": verdict.message}
    return {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": answer}
