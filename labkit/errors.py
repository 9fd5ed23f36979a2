"""Every error that the lab raises on purpose.

LabError
├── InputError                 what the user gave is wrong: one line, exit 2, no traceback
│   ├── ScenarioError
│   ├── ExperimentError
│   ├── RuleError              a rule or query that cannot be used, with file and position
│   └── TraceError
├── ClusterError               the machine or a component of the lab
│   ├── ComponentError         a component died; carries its exit code and last log lines
│   ├── NotReadyError          something was waited for in vain
│   └── ToolError              a program is missing, cannot be built, or has the wrong version
├── KubeError                  the Kubernetes API answered with an error; carries the HTTP status
├── PrometheusError
│   ├── NoAnswerError          it is away, or does not serve yet
│   ├── QueryError
│   └── NoSamplesError         a query that must answer gave nothing
└── ResultError                a results folder that cannot be read

A message says what was wanted, what was found and what to do next. Foreign exceptions are translated
once, at the door that owns them, with ``raise … from exc``.
"""

from __future__ import annotations

__all__ = [
    "ClusterError",
    "ComponentError",
    "ExperimentError",
    "InputError",
    "KubeError",
    "LabError",
    "NoAnswerError",
    "NoSamplesError",
    "NotReadyError",
    "PrometheusError",
    "QueryError",
    "ResultError",
    "RuleError",
    "ScenarioError",
    "ToolError",
    "TraceError",
]


class LabError(Exception):
    """Base of every error raised by the lab."""


class InputError(LabError):
    """What the user gave is wrong; shown as one line, the command exits with 2."""


class ScenarioError(InputError):
    """A scenario file or object that cannot be played."""


class ExperimentError(InputError):
    """An experiment file that cannot be expanded into runs."""


class RuleError(InputError):
    """A rule or PromQL expression that cannot be used."""


class TraceError(InputError):
    """A trace file that cannot be replayed."""


class ClusterError(LabError):
    """The machine or a component of the lab is in the way."""


class ComponentError(ClusterError):
    """A component died or refused to start.

    Parameters
    ----------
    message : str
        What was wanted, what was found, what to do.
    component : str
        Name of the component, as ``labkit status`` shows it.
    exit_code : int or None
        Exit code of its process, None while it runs.
    log_tail : str
        Its last log lines, possibly empty.
    """

    def __init__(self, message: str, *, component: str, exit_code: int | None = None, log_tail: str = "") -> None:
        super().__init__(message)
        self.component = component
        self.exit_code = exit_code
        self.log_tail = log_tail


class NotReadyError(ClusterError):
    """Something was waited for until its deadline passed."""


class ToolError(ClusterError):
    """A program is missing, cannot be built, or has the wrong version."""


class KubeError(LabError):
    """The Kubernetes API answered with an error, or did not answer.

    Parameters
    ----------
    message : str
        The API's own message where it gave one.
    status : int
        HTTP status; 0 when no answer came.
    reason : str
        ``reason`` of the Status object, for example ``NotFound`` or ``Conflict``.
    """

    def __init__(self, message: str, *, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed a moment later: the server is away, begins anew or is busy."""
        return self.status in (0, 429) or self.status >= 500


class PrometheusError(LabError):
    """Prometheus did not answer, or answered with an error."""


class NoAnswerError(PrometheusError):
    """Prometheus is away, or does not serve yet: the same question may be answered a moment later."""


class QueryError(PrometheusError):
    """Prometheus refused a query; carries the query."""

    def __init__(self, message: str, *, query: str) -> None:
        super().__init__(message)
        self.query = query


class NoSamplesError(QueryError):
    """A query that must answer gave no sample."""


class ResultError(LabError):
    """A results folder or table that cannot be read."""
