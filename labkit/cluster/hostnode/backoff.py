"""Pauses between tries, by the kubelet's rule: ten seconds, doubled each time, five minutes at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

RESTART_FIRST_SECONDS: Final = 10.0
RESTART_MAX_SECONDS: Final = 300.0
RETRY_FIRST_SECONDS: Final = 0.2
"""For what usually comes within a moment: a ConfigMap made after the pod, a port about to become free."""
RETRY_MAX_SECONDS: Final = 10.0


@dataclass
class Backoff:
    """When the next try may be made; the first may be made at once.

    Parameters
    ----------
    first_seconds : float
        Pause before the third try (the second follows the first failure at once).
    max_seconds : float
        No pause is longer. After twice that long without a failure the next one is a first failure again.
    """

    first_seconds: float
    max_seconds: float
    pause_seconds: float = 0.0
    not_before: float = 0.0

    def failed(self, now: float) -> float:
        """Note a failure and return when the next try may be made, on the scale of ``now`` (seconds)."""
        if self.pause_seconds and now - self.not_before > 2 * self.max_seconds:
            self.pause_seconds = 0.0
        self.not_before = now + self.pause_seconds
        self.pause_seconds = min(2 * self.pause_seconds or self.first_seconds, self.max_seconds)
        return self.not_before

    def reset(self) -> None:
        """Forget all failures."""
        self.pause_seconds = self.not_before = 0.0


def restart_backoff() -> Backoff:
    """Return the kubelet's pauses between restarts of a container."""
    return Backoff(RESTART_FIRST_SECONDS, RESTART_MAX_SECONDS)


def retry_backoff() -> Backoff:
    """Return the pauses between tries to prepare something."""
    return Backoff(RETRY_FIRST_SECONDS, RETRY_MAX_SECONDS, pause_seconds=RETRY_FIRST_SECONDS)
