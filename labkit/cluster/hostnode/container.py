"""One container of a pod over all its lives: start, probes, exit, pause, start again.

Belongs to the worker of its pod and is only touched in that worker's thread; what other threads notice (an exit, a
probe's answer) reaches it through the worker's inbox.
"""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from labkit.clock import Clock
from labkit.cluster.hostnode.backoff import restart_backoff, retry_backoff
from labkit.cluster.hostnode.config import AgentConfig
from labkit.cluster.hostnode.content import VolumeError
from labkit.cluster.hostnode.environment import (
    IMAGE_ENVIRONMENT,
    ContainerConfigError,
    build_command,
    build_environment,
)
from labkit.cluster.hostnode.events import Recorder
from labkit.cluster.hostnode.forwarder import Forwarder, is_port_free
from labkit.cluster.hostnode.leftovers import SUFFIX
from labkit.cluster.hostnode.life import Life
from labkit.cluster.hostnode.probes import (
    KINDS,
    LIVENESS,
    READINESS,
    STARTUP,
    Prober,
    ProbeSpec,
    check_exec,
    check_http,
    check_tcp,
    port_number,
)
from labkit.cluster.hostnode.sandbox import Bubblewrap, Mount
from labkit.cluster.hostnode.spawner import Spawner
from labkit.cluster.hostnode.status import CRASH_LOOP, INIT, SIDECAR, ContainerState, running, terminated, waiting
from labkit.cluster.hostnode.volumes import FORBIDDEN, NOT_FOUND, PodObjects, PodVolumes
from labkit.errors import KubeError

logger = logging.getLogger(__name__)

Object = Mapping[str, Any]

NEVER: Final = float("inf")
PROMETHEUS: Final = "prometheus"
PAGES_PREFIX: Final = {"prometheus": "web/ui", "web": "ui"}
"""Prometheus built without its pages looks for them here, by the name of its working directory (``web/ui/ui.go``)."""


@dataclass(frozen=True)
class Node:
    """What every pod of the node shares.

    Parameters
    ----------
    config : AgentConfig
        The agent's configuration.
    bubblewrap : Bubblewrap
        Makes the containers' roots.
    spawner : Spawner
        Makes processes.
    recorder : Recorder
        Records events.
    clock : Clock
        Time.
    kept : tuple of str
        Folders of the lab that must stay visible to containers.
    """

    config: AgentConfig
    bubblewrap: Bubblewrap
    spawner: Spawner
    recorder: Recorder
    clock: Clock
    kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class PodFolders:
    """Where a pod's files are on the host."""

    state: Path
    logs: Path

    @property
    def volumes(self) -> Path:
        """One folder per volume."""
        return self.state / "volumes"

    @property
    def hosts(self) -> Path:
        """The pod's ``/etc/hosts``."""
        return self.state / "hosts"

    @property
    def nsswitch(self) -> Path:
        """The pod's ``/etc/nsswitch.conf``."""
        return self.state / "nsswitch.conf"


class Container:
    """A container of a pod.

    Parameters
    ----------
    node : Node
        What every pod of the node shares.
    pod, spec : Mapping
        The pod and this container's part of it.
    kind : str
        ``init``, ``sidecar`` or ``main``.
    folders : PodFolders
        Where the pod's files are.
    tell : callable
        Puts a callable into the worker's inbox.
    """

    def __init__(
        self,
        node: Node,
        pod: Object,
        spec: Object,
        kind: str,
        folders: PodFolders,
        tell: Callable[[Callable[[], None]], None],
    ) -> None:
        self._node = node
        self._pod = pod
        self._spec = spec
        self._folders = folders
        self._tell = tell
        policy = spec.get("restartPolicy") or pod["spec"].get("restartPolicy", "Always")
        self.name: str = spec["name"]
        first = waiting("PodInitializing" if pod["spec"].get("initContainers") else "ContainerCreating")
        self.state = ContainerState(self.name, spec.get("image") or "", kind, policy, first)
        self.life: Life | None = None
        self._restarts = restart_backoff()
        self._retries = retry_backoff()
        self._not_before = 0.0
        self._kill_at = NEVER
        self._for_good = False
        self._probers: list[Prober] = []
        self._specs = {kind: ProbeSpec.from_container(spec, kind) for kind in KINDS}
        self._forwarders: list[Forwarder] = []
        self._environment: dict[str, str] = {}

    @property
    def alive(self) -> bool:
        """Whether it has a process."""
        return self.life is not None

    @property
    def log_folder(self) -> Path:
        """Return the folder of its logs."""
        return self._folders.logs / self.name

    @property
    def waiting_reason(self) -> str | None:
        """Return why it does not run, None if it does or has ended."""
        state = self.state.state.get("waiting")
        return None if state is None else str(state.get("reason", ""))

    def log_ended(self) -> Callable[[], bool]:
        """Return a function that tells whether the log of the present life is complete; from any thread."""
        life = self.life
        return (lambda: True) if life is None else (lambda: life.log_complete)

    @property
    def next_at(self) -> float:
        """Return when it must be looked at again, on the monotonic clock."""
        if self.alive:
            return self._kill_at
        return NEVER if self.state.over else self._not_before

    def ports(self) -> set[int]:
        """Return the TCP ports that it opens on the node."""
        numbers: set[int] = set()
        for port in self._spec.get("ports") or ():
            if port.get("protocol", "TCP") == "TCP":
                numbers |= {int(port["containerPort"]), int(port.get("hostPort") or port["containerPort"])}
        return numbers

    # --- starting -----------------------------------------------------------------------------------

    def ensure_running(self, objects: PodObjects, volumes: PodVolumes) -> None:
        """Start it if it should run, does not, and may be tried now; end it if its time to end is over."""
        now = self._node.clock.monotonic()
        if self.life is not None:
            self.enforce_deadline()
            return
        if self.state.over:
            return
        if now < self._not_before:
            return
        try:
            self._start(objects, volumes)
        except (ContainerConfigError, VolumeError) as error:
            self._cannot_start("CreateContainerConfigError", str(error))
        except _PortTakenError as error:
            self._cannot_start("PortInUse", str(error))
        except (OSError, ValueError) as error:  # ValueError: what no process can be given, such as a null byte
            self._cannot_start("RunContainerError", str(error))
        except KubeError as error:
            if error.status in (FORBIDDEN, NOT_FOUND):
                self._cannot_start("CreateContainerConfigError", str(error))
            else:  # the API server is away: nothing to tell anybody
                logger.info("%s waits for the API server: %s", self.name, error)
                self._not_before = self._retries.failed(now)

    def _start(self, objects: PodObjects, volumes: PodVolumes) -> None:
        config = self._node.config
        if self.state.has_run:
            volumes.fill()  # a new life sees the newest ConfigMaps and Secrets
        base = {
            **IMAGE_ENVIRONMENT,
            "PATH": config.search_path,
            "HOSTNAME": self._pod["spec"].get("hostname") or self._pod["metadata"]["name"],
            "KUBERNETES_SERVICE_HOST": config.api_server_host,
            "KUBERNETES_SERVICE_PORT": str(config.api_server_port),
            "KUBERNETES_SERVICE_PORT_HTTPS": str(config.api_server_port),
        }
        environment = build_environment(self._pod, self._spec, objects.texts, base=base, address=config.address)
        command = build_command(self._spec, environment)
        search_path = environment.get("PATH", config.search_path)
        program = command[0]
        if "/" not in program and shutil.which(program, path=search_path) is None:
            raise ContainerConfigError(
                f"program {program!r} of container {self.name!r} is in none of the folders of PATH ({search_path})"
            )
        for port in sorted(self.ports()):
            if not is_port_free(config.address, port):
                raise _PortTakenError(
                    f"port {port} of {config.address} is taken by another program: end that program, "
                    "or bring the lab up with another --address"
                )
        working_dir = self._spec.get("workingDir") or "/"
        mounts = [*volumes.mounts(self._spec), *self._own_mounts(program, working_dir)]
        self._open_forwarders()
        try:
            self.life = Life(
                self._node.spawner,
                partial(self._words, command, mounts, working_dir),
                environment,
                log_folder=self._folders.logs / self.name,
                record_file=self._folders.state / f"{self.name}{SUFFIX}",
                clock=self._node.clock,
                on_exit=self._noticed_exit,
            )
        except BaseException:
            self._close_forwarders()
            raise
        self._environment = environment
        self._retries = retry_backoff()
        self._kill_at = NEVER
        if self.state.has_run:
            self.state.restart_count += 1
            ended = self.state.state.get("terminated")
            if ended is not None:
                self.state.last_state = {"terminated": ended}
        self.state.has_run = True
        self.state.container_id = f"host://{uuid.uuid4().hex}"
        self.state.state = running(self.life.started_at)
        self._record("Started", f"Started container {self.name}")
        self._begin_probes()

    def _words(self, command: list[str], mounts: list[Mount], working_dir: str, info_fd: int) -> list[str]:
        return self._node.bubblewrap.arguments(
            command, mounts, working_dir=working_dir, kept=self._node.kept, info_fd=info_fd
        )

    def _own_mounts(self, program: str, working_dir: str) -> list[Mount]:
        mounts = [Mount(str(self._folders.hosts), "/etc/hosts")]
        if self._folders.nsswitch.exists():
            mounts.append(Mount(str(self._folders.nsswitch), "/etc/nsswitch.conf"))
        pages = self._node.config.static_dir_prometheus
        if pages and os.path.basename(program) == PROMETHEUS:
            prefix = PAGES_PREFIX.get(os.path.basename(working_dir.rstrip("/")), "")
            mounts.append(Mount(pages, os.path.join(working_dir, prefix, "static")))
        return mounts

    def _cannot_start(self, reason: str, message: str) -> None:
        self._not_before = self._retries.failed(self._node.clock.monotonic())
        ended = self.state.state.get("terminated")
        if ended is not None:
            self.state.last_state = {"terminated": ended}
        self.state.state = waiting(reason, message)
        self._record("Failed", f"Error: {message}", warning=True)

    def _open_forwarders(self) -> None:
        for port in self._spec.get("ports") or ():
            host_port = int(port.get("hostPort") or 0)
            if host_port and host_port != int(port["containerPort"]) and port.get("protocol", "TCP") == "TCP":
                self._forwarders.append(Forwarder(self._node.config.address, host_port, int(port["containerPort"])))

    def _close_forwarders(self) -> None:
        while self._forwarders:
            self._forwarders.pop().close()

    # --- ending -------------------------------------------------------------------------------------

    def stop(self, grace_seconds: float, why: str, *, for_good: bool = True) -> None:
        """Ask it to end, and end it when the grace period is over; a shorter period replaces a longer one."""
        self._for_good = self._for_good or for_good
        if self.life is None:
            return
        deadline = self._node.clock.monotonic() + grace_seconds
        if self._kill_at == NEVER:
            self._record("Killing", why)
            if grace_seconds > 0:
                self.life.terminate()
        self._kill_at = min(self._kill_at, deadline)
        self.enforce_deadline()

    def enforce_deadline(self) -> None:
        """End it if its grace period is over."""
        if self.life is not None and self._node.clock.monotonic() >= self._kill_at:
            self.life.kill()

    def kill(self) -> None:
        """End it now, without a word."""
        if self.life is not None:
            self.life.kill()

    def _noticed_exit(self, life: Life) -> None:
        self._tell(lambda: self._exited(life))

    def _exited(self, life: Life) -> None:
        assert life.exit_code is not None
        self._end_probes()
        self._close_forwarders()
        self.life = None
        self._kill_at = NEVER
        state = self.state
        state.ready = False
        state.started = False
        state.state = terminated(life.exit_code, life.started_at, life.finished_at, state.container_id)
        if state.kind == INIT and life.exit_code == 0:
            state.ready = True
        if self._for_good or not state.restarts_after_exit:
            return
        now = self._node.clock.monotonic()
        self._not_before = self._restarts.failed(now)
        if self._not_before > now:
            pause = round(self._not_before - now)
            metadata = self._pod["metadata"]
            whom = f"container={self.name} pod={metadata['name']}_{metadata['namespace']}({metadata['uid']})"
            state.last_state = dict(state.state)
            state.state = waiting(CRASH_LOOP, f"back-off {pause}s restarting failed {whom}")
            self._record(
                "BackOff",
                f"Back-off restarting failed container {self.name} in pod {whom[whom.index('pod=') + 4 :]}",
                warning=True,
            )

    # --- probes -------------------------------------------------------------------------------------

    def _begin_probes(self) -> None:
        startup = self._specs[STARTUP]
        if startup is not None:
            self.state.started = False
            self.state.ready = False
            self._probe(startup)
        else:
            self._has_started()

    def _has_started(self) -> None:
        self.state.started = True
        self.state.ready = self._specs[READINESS] is None and self.state.kind != INIT
        for kind in (LIVENESS, READINESS):
            spec = self._specs[kind]
            if spec is not None:
                self._probe(spec)

    def _probe(self, spec: ProbeSpec) -> None:
        life = self.life
        assert life is not None

        def answered(spec: ProbeSpec, decided: bool, passing: bool, complaint: str | None) -> None:
            self._tell(lambda: self._answered(life, spec, decided, passing, complaint))

        self._probers.append(Prober(spec, partial(self._check, life, spec), answered, self._node.clock))

    def _end_probes(self) -> None:
        while self._probers:
            self._probers.pop().stop()

    def _check(self, life: Life, spec: ProbeSpec) -> str | None:
        action = spec.action
        address = self._node.config.address
        if "exec" in action:
            return check_exec(
                life.wait_main_pid(spec.timeout_seconds),
                action["exec"]["command"],
                self._environment,
                spec.timeout_seconds,
            )
        ask, details = (check_http, action["httpGet"]) if "httpGet" in action else (check_tcp, action["tcpSocket"])
        port = port_number(self._spec, details["port"])
        if port is None:
            return f"the container has no port named {details['port']!r}"
        return ask(address, port, details, spec.timeout_seconds)

    def _answered(self, life: Life, spec: ProbeSpec, decided: bool, passing: bool, complaint: str | None) -> None:
        if self.life is not life or self._kill_at != NEVER:
            return
        if complaint is not None:
            self._record("Unhealthy", f"{spec.kind.capitalize()} probe failed: {complaint}", warning=True)
        if not decided:
            return
        if spec.kind == READINESS:
            self.state.ready = passing
        elif not passing:
            grace = spec.grace_seconds
            if grace is None:
                grace = float(self._pod["spec"].get("terminationGracePeriodSeconds") or 0)
            self._end_probes()
            self.state.ready = False
            self.stop(grace, f"Container {self.name} failed {spec.kind} probe, will be restarted", for_good=False)
        elif spec.kind == STARTUP and not self.state.started:
            self._end_probes()
            self._has_started()

    def _record(self, reason: str, message: str, *, warning: bool = False) -> None:
        self._node.recorder.record(
            self._pod, reason, message, container=self._spec, warning=warning, init=self.state.kind in (INIT, SIDECAR)
        )


class _PortTakenError(Exception):
    """A port that the container declares is in use."""
