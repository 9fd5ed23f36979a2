"""What a runner tells whoever watches it."""

from __future__ import annotations

from typing import Protocol

from labkit.results import RunRecord


class Progress(Protocol):
    """Where a runner reports to."""

    def begin(self, todo: int, done: int) -> None:
        """Take note that so many runs are to be made and so many exist."""

    def running(
        self, run_id: str, lab_seconds: float, duration_seconds: float, migrations: int, message: str = ""
    ) -> None:
        """Take note of a live run's state; the message says what it waits for before lab time 0."""

    def finished(self, record: RunRecord) -> None:
        """Take note that a run ended, well or not."""

    def note(self, text: str) -> None:
        """Take note of a step that is not a run."""

    def end(self) -> None:
        """Take note that no more runs follow."""


class Silent:
    """Nobody watches."""

    def begin(self, todo: int, done: int) -> None:
        """Do nothing."""

    def running(
        self, run_id: str, lab_seconds: float, duration_seconds: float, migrations: int, message: str = ""
    ) -> None:
        """Do nothing."""

    def finished(self, record: RunRecord) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""
