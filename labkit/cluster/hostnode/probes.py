"""Probes: what to ask a container, and when its answers count.

Pure: :class:`ProbeSpec` and :class:`Verdict`. Effects: the three checks, and :class:`Prober`, which runs one probe in
a thread for one life of a container.
"""

from __future__ import annotations

import http.client
import logging
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from labkit.clock import Clock

logger = logging.getLogger(__name__)

Object = Mapping[str, Any]

LIVENESS: Final = "liveness"
READINESS: Final = "readiness"
STARTUP: Final = "startup"
KINDS: Final = (STARTUP, LIVENESS, READINESS)
_MAX_BODY: Final = 10 * 1024


@dataclass(frozen=True)
class ProbeSpec:
    """One probe of a container, with Kubernetes' defaults filled in.

    Parameters
    ----------
    kind : str
        ``liveness``, ``readiness`` or ``startup``.
    action : Mapping
        The part that says what to ask: ``{"httpGet": …}``, ``{"tcpSocket": …}`` or ``{"exec": …}``.
    initial_delay_seconds, period_seconds, timeout_seconds : float
        As in the spec.
    success_threshold, failure_threshold : int
        So many answers in a row count.
    grace_seconds : float or None
        Grace period of a container that this probe ends; None: the pod's.
    """

    kind: str
    action: Object
    initial_delay_seconds: float = 0.0
    period_seconds: float = 10.0
    timeout_seconds: float = 1.0
    success_threshold: int = 1
    failure_threshold: int = 3
    grace_seconds: float | None = None

    @classmethod
    def from_container(cls, container: Object, kind: str) -> ProbeSpec | None:
        """Return a container's probe of that kind, None if it has none."""
        spec = container.get(f"{kind}Probe")
        if not spec:
            return None
        return cls(
            kind=kind,
            action={name: spec[name] for name in ("httpGet", "tcpSocket", "exec") if name in spec},
            initial_delay_seconds=float(spec.get("initialDelaySeconds") or 0),
            period_seconds=max(1.0, float(spec.get("periodSeconds") or 10)),
            timeout_seconds=max(1.0, float(spec.get("timeoutSeconds") or 1)),
            success_threshold=max(1, int(spec.get("successThreshold") or 1)),
            failure_threshold=max(1, int(spec.get("failureThreshold") or 3)),
            grace_seconds=spec.get("terminationGracePeriodSeconds"),
        )


class Verdict:
    """What the answers so far amount to.

    Parameters
    ----------
    spec : ProbeSpec
        Its thresholds.

    Notes
    -----
    Before enough answers have come a container counts as alive, not ready and not started.
    """

    def __init__(self, spec: ProbeSpec) -> None:
        self._spec = spec
        self._last: bool | None = None
        self._in_a_row = 0
        self.passing = spec.kind == LIVENESS

    def take(self, success: bool) -> bool:
        """Count one answer; return whether the verdict was reached by it or confirmed (enough answers in a row)."""
        self._in_a_row = self._in_a_row + 1 if success is self._last else 1
        self._last = success
        threshold = self._spec.success_threshold if success else self._spec.failure_threshold
        if self._in_a_row < threshold:
            return False
        self.passing = success
        return True


def port_number(container: Object, port: int | str) -> int | None:
    """Return a port given by number or by the name of one of the container's ports."""
    if isinstance(port, int):
        return port
    for entry in container.get("ports") or ():
        if entry.get("name") == port:
            return int(entry["containerPort"])
    return int(port) if str(port).isdecimal() else None


@cache
def _unverified() -> ssl.SSLContext:
    """Return a context that trusts everybody: a probe asks for life, not for identity.

    Made once and without the system's authorities: reading those takes longer than the probe.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def check_http(address: str, port: int, action: Object, timeout_seconds: float) -> str | None:
    """Ask by HTTP; return None if the answer is 200 to 399, else what is wrong."""
    scheme = action.get("scheme") or "HTTP"
    path = action.get("path") or "/"
    host = action.get("host") or address
    url = f"{scheme.lower()}://{host}:{port}{path}"
    headers = {entry["name"]: entry["value"] for entry in action.get("httpHeaders") or ()}
    headers.setdefault("User-Agent", "kube-probe/1.36")
    connection: http.client.HTTPConnection
    if scheme == "HTTPS":
        connection = http.client.HTTPSConnection(host, port, timeout=timeout_seconds, context=_unverified())
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout_seconds)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        response.read(_MAX_BODY)
    except (OSError, http.client.HTTPException) as error:
        return f'Get "{url}": {error}'
    finally:
        connection.close()
    if 200 <= response.status < 400:
        return None
    return f"HTTP probe failed with statuscode: {response.status}"


def check_tcp(address: str, port: int, action: Object, timeout_seconds: float) -> str | None:
    """Connect; return None if that works, else what is wrong."""
    host = action.get("host") or address
    try:
        with socket.create_connection((host, port), timeout=timeout_seconds):
            return None
    except OSError as error:
        return f"dial tcp {host}:{port}: {error}"


def check_exec(
    pid: int | None, command: Sequence[str], environment: Mapping[str, str], timeout_seconds: float
) -> str | None:
    """Run a command beside a container's process; return None if it exits with 0, else what is wrong."""
    nsenter = shutil.which("nsenter")
    if nsenter is None:
        return "exec probes need the program nsenter (package util-linux) on the host"
    if pid is None:
        return "the container has no process"
    words = [nsenter, f"--target={pid}", "--mount", "--pid"]
    if os.geteuid() != 0:
        words += ["--user", "--preserve-credentials"]
    try:
        done = subprocess.run(
            [*words, "--", *command],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"command timed out after {timeout_seconds:g} s: {' '.join(command)}"
    except OSError as error:
        return str(error)
    if done.returncode == 0:
        return None
    return done.stdout[:_MAX_BODY].decode(errors="replace").strip() or f"command exited with {done.returncode}"


class Prober:
    """Runs one probe of one life of a container, in a thread, until it is stopped.

    Parameters
    ----------
    spec : ProbeSpec
        The probe.
    check : callable
        Asks once; returns None for success, else what is wrong.
    on_answer : callable
        Called with ``(spec, verdict changed or confirmed, passing, complaint)`` after each answer.
    clock : Clock
        For the pauses.
    """

    def __init__(
        self,
        spec: ProbeSpec,
        check: Callable[[], str | None],
        on_answer: Callable[[ProbeSpec, bool, bool, str | None], None],
        clock: Clock,
    ) -> None:
        self._spec = spec
        self._check = check
        self._on_answer = on_answer
        self._clock = clock
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{spec.kind}-probe", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask no more; an answer under way is not reported."""
        self._stopped.set()

    def _run(self) -> None:
        verdict = Verdict(self._spec)
        if self._stopped.wait(self._spec.initial_delay_seconds):
            return
        next_at = self._clock.monotonic()
        while True:
            try:
                complaint = self._check()
            except Exception as error:  # a probe that cannot be asked has failed; the thread must go on
                logger.exception("%s probe failed", self._spec.kind)
                complaint = str(error)
            if self._stopped.is_set():
                return
            decided = verdict.take(complaint is None)
            self._on_answer(self._spec, decided, verdict.passing, complaint)
            next_at = max(next_at + self._spec.period_seconds, self._clock.monotonic())
            if self._stopped.wait(next_at - self._clock.monotonic()):
                return
