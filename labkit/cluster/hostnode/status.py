"""The status that the agent writes: from what it knows of a pod's containers to what ``kubectl`` shows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

Object = Mapping[str, Any]

INIT: Final = "init"
SIDECAR: Final = "sidecar"
MAIN: Final = "main"

CRASH_LOOP: Final = "CrashLoopBackOff"
LOST_REASON: Final = "ContainerStatusUnknown"
LOST_EXIT_CODE: Final = 137
LOST_MESSAGE: Final = "The container ended with the host node agent that ran it"


def timestamp(seconds: float) -> str:
    """Return seconds since 1970 as ``metav1.Time``."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    """Return the state of a container that does not run yet."""
    return {"waiting": {"reason": reason} | ({"message": message} if message else {})}


def running(started_at: float) -> dict[str, Any]:
    """Return the state of a running container."""
    return {"running": {"startedAt": timestamp(started_at)}}


def terminated(
    exit_code: int, started_at: float, finished_at: float, container_id: str, *, reason: str = "", message: str = ""
) -> dict[str, Any]:
    """Return the state of a container that has ended."""
    state = {
        "exitCode": exit_code,
        "reason": reason or ("Completed" if exit_code == 0 else "Error"),
        "startedAt": timestamp(started_at),
        "finishedAt": timestamp(finished_at),
        "containerID": container_id,
    }
    return {"terminated": state | ({"message": message} if message else {})}


@dataclass
class ContainerState:
    """What is known of one container.

    Parameters
    ----------
    name, image : str
        From the spec.
    kind : str
        ``init``, ``sidecar`` or ``main``.
    restart_policy : str
        ``Always``, ``OnFailure`` or ``Never``; of a sidecar always ``Always``.
    state, last_state : dict
        As in the status; ``last_state`` is empty before the first restart.
    restart_count : int
        How often it was started again.
    ready, started : bool
        As probes say, or as running says where there is no probe.
    has_run : bool
        Whether the next start is a restart.
    container_id : str
        Of the last life.
    """

    name: str
    image: str
    kind: str
    restart_policy: str
    state: dict[str, Any] = field(default_factory=lambda: waiting("ContainerCreating"))
    last_state: dict[str, Any] = field(default_factory=dict)
    restart_count: int = 0
    ready: bool = False
    started: bool = False
    has_run: bool = False
    container_id: str = ""

    @property
    def exit_code(self) -> int | None:
        """Return the exit code of a container that has ended and is not waiting to be started again."""
        ended = self.state.get("terminated")
        return None if ended is None else int(ended["exitCode"])

    @property
    def last_exit_code(self) -> int | None:
        """Return the exit code of the last life that ended."""
        ended = self.state.get("terminated") or self.last_state.get("terminated")
        return None if ended is None else int(ended["exitCode"])

    @property
    def restarts_after_exit(self) -> bool:
        """Whether the policy asks for a new start after the last exit."""
        code = self.last_exit_code
        if self.kind == INIT:
            return code != 0 and self.restart_policy != "Never"
        return self.restart_policy == "Always" or (self.restart_policy == "OnFailure" and code != 0)

    @property
    def over(self) -> bool:
        """Whether it has ended for good."""
        return self.exit_code is not None and not self.restarts_after_exit

    @property
    def passed(self) -> bool:
        """Whether the containers after this initialising one may start."""
        return self.started if self.kind == SIDECAR else self.exit_code == 0

    def restore(self, status: Object, now: float) -> None:
        """Take over what an earlier agent wrote; a container that it ran has ended with it."""
        self.restart_count = int(status.get("restartCount") or 0)
        self.last_state = dict(status.get("lastState") or {})
        self.container_id = status.get("containerID") or ""
        state = dict(status.get("state") or {})
        self.has_run = bool(self.last_state) or "waiting" not in state
        if "running" in state:
            self.last_state = {
                "terminated": {
                    "exitCode": LOST_EXIT_CODE, "reason": LOST_REASON, "message": LOST_MESSAGE,
                    "startedAt": state["running"].get("startedAt"), "finishedAt": timestamp(now),
                    "containerID": self.container_id,
                }
            }  # fmt: skip
        elif "terminated" in state and self.kind == MAIN:
            self.state = state
            if self.restarts_after_exit:
                self.state, self.last_state = waiting("ContainerCreating"), state

    def as_status(self) -> dict[str, Any]:
        """Return the container's entry in the pod's status."""
        entry: dict[str, Any] = {
            "name": self.name,
            "image": self.image,
            "imageID": "",
            "state": self.state,
            "lastState": self.last_state,
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restart_count,
        }
        if self.container_id:
            entry["containerID"] = self.container_id
        return entry


def pod_phase(containers: Sequence[ContainerState], restart_policy: str) -> str:
    """Return the phase of a pod, by the kubelet's rules."""
    first = [container for container in containers if container.kind != MAIN]
    main = [container for container in containers if container.kind == MAIN]
    if any(container.kind == INIT and container.over and container.exit_code != 0 for container in first):
        return "Failed"
    if any(not container.has_run for container in main):
        return "Pending"
    if all(container.over for container in main):
        return "Succeeded" if all(container.exit_code == 0 for container in main) else "Failed"
    return "Running"


def pod_status(
    pod: Object,
    containers: Sequence[ContainerState],
    *,
    prepared: bool,
    address: str,
    start_time: str,
    now: float,
    previous: Iterable[Object] = (),
    phase: str | None = None,
    reason: str = "",
    message: str = "",
) -> dict[str, Any]:
    """Return the status of a pod, as a strategic merge patch takes it.

    Parameters
    ----------
    pod : Mapping
        The pod.
    containers : sequence of ContainerState
        All of them, in the order of the spec.
    prepared : bool
        Whether its volumes are there.
    address : str
        The node's. ``podIP`` stays empty: endpoints in the loopback range are refused for ever.
    start_time : str
        When the agent first saw the pod.
    now : float
        Seconds since 1970.
    previous : iterable of Mapping
        The conditions before; a condition that has not changed keeps its time.
    phase : str, optional
        Instead of the one that follows from the containers.
    reason, message : str
        Of the pod as a whole.
    """
    policy = pod["spec"].get("restartPolicy", "Always")
    phase = phase or pod_phase(containers, policy)
    first = [container for container in containers if container.kind != MAIN]
    serving = [container for container in containers if container.kind != INIT]
    done = phase in ("Succeeded", "Failed")
    not_ready = [container.name for container in serving if not container.ready]
    not_passed = [container.name for container in first if not container.passed]
    initialized = done or not not_passed or any(container.has_run for container in containers if container.kind == MAIN)
    ready = not not_ready and not done
    why_not = "PodCompleted" if phase == "Succeeded" else "PodFailed" if phase == "Failed" else "ContainersNotReady"
    names = " ".join(not_ready)
    readiness = (ready, "" if ready else why_not, "" if ready or done else f"containers with unready status: [{names}]")
    before = {condition["type"]: condition for condition in previous}
    conditions = [
        _condition("PodReadyToStartContainers", prepared and not done, "", "", before, now),
        _condition(
            "Initialized",
            initialized,
            "" if initialized else "ContainersNotInitialized",
            "" if initialized else f"containers with incomplete status: [{' '.join(not_passed)}]",
            before,
            now,
        ),
        _condition("Ready", *readiness, before, now),
        _condition("ContainersReady", *readiness, before, now),
    ]
    status: dict[str, Any] = {
        "observedGeneration": pod["metadata"].get("generation"),
        "phase": phase,
        "reason": reason or None,
        "message": message or None,
        "hostIP": address,
        "hostIPs": [{"ip": address}],
        "startTime": start_time,
        "conditions": conditions,
        "containerStatuses": [container.as_status() for container in containers if container.kind == MAIN],
    }
    if first:
        status["initContainerStatuses"] = [container.as_status() for container in first]
    return status


def _condition(
    kind: str, holds: bool, reason: str, message: str, before: Mapping[str, Object], now: float
) -> dict[str, Any]:
    status = "True" if holds else "False"
    old = before.get(kind)
    changed = old is None or old.get("status") != status
    when = timestamp(now) if changed or old is None else old.get("lastTransitionTime") or timestamp(now)
    return {
        "type": kind,
        "status": status,
        "reason": reason or None,  # null removes what an earlier patch left
        "message": message or None,
        "lastTransitionTime": when,
        "lastProbeTime": None,
    }
