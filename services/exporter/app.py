"""The exporter's HTTP pages: what Prometheus scrapes, and the cluster's state for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from flask import Flask, Response, jsonify
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from werkzeug.exceptions import HTTPException

import services.exporter.custom  # noqa: F401 - makes the user's metrics known
from labkit.clock import WALL_CLOCK, Clock
from services.exporter.counters import CounterFile
from services.exporter.logic import Fleet
from services.exporter.metrics import Exposition

TEXT_FORMAT: Final = "text/plain; version=0.0.4; charset=utf-8"
READ_ONLY: Final = (
    "the exporter only shows the cluster, it is not fed by requests; change a VM instead, for example: "
    'kubectl patch vm vm-small-1 --type merge -p \'{"spec":{"utilization":{"cpu":"0.9"}}}\''
)


def create_app(
    fleet: Fleet,
    *,
    clock: Clock = WALL_CLOCK,
    exposition: Exposition | None = None,
    counter_file: CounterFile | None = None,
    is_current: Callable[[], bool] = lambda: True,
) -> Flask:
    """Build the WSGI application over a fleet.

    Parameters
    ----------
    fleet : Fleet
        The state; before its ``begin`` the pages answer 503.
    clock : Clock
        Where "now" comes from.
    exposition : Exposition, optional
        The metrics; all known ones without it.
    counter_file : CounterFile, optional
        Where counters are written before they are told.
    is_current : callable
        Whether the fleet follows the cluster now.
    """
    app = Flask("exporter")
    text = exposition or Exposition()
    own = CollectorRegistry()
    ProcessCollector(registry=own)

    @app.before_request
    def _not_yet() -> tuple[Response, int] | None:
        return None if fleet.is_running else (jsonify(status="starting: waiting for the first list of objects"), 503)

    @app.get("/metrics")
    def _metrics() -> Response:
        view = fleet.view(clock.now())
        if counter_file is not None:
            counter_file.write(view.counters())
        return Response(text.text(view) + _own_metrics(fleet, text) + generate_latest(own), content_type=TEXT_FORMAT)

    @app.get("/healthz")
    def _healthz() -> str:
        return "ok\n"

    @app.get("/health")
    def _health() -> Response:
        failing, current = list(text.failing), is_current()
        status = "healthy" if current and not failing else "degraded"
        return jsonify(status=status, k8s_client_ready=current, failing_metrics=failing, **fleet.counts())

    @app.get("/scenario")
    def _scenario() -> Response:
        return jsonify(fleet.scenario(clock.now()))

    @app.get("/nodes/<name>")
    def _node(name: str) -> Response | tuple[Response, int]:
        for node in fleet.scenario(clock.now())["nodes"]:
            if node["name"] == name:
                return jsonify(node)
        return jsonify(error=f"wanted a simulated node, found none named {name!r}"), 404

    @app.post("/<path:page>")
    def _post(page: str) -> tuple[Response, int]:
        return jsonify(error=READ_ONLY), 405

    @app.errorhandler(HTTPException)
    def _refused(error: HTTPException) -> tuple[Response, int]:
        message = READ_ONLY if error.code == 405 else error.description
        return jsonify(error=message), error.code or 500

    return app


def _own_metrics(fleet: Fleet, text: Exposition) -> bytes:
    own: dict[str, tuple[str, Any]] = {
        "lab_exporter_unreadable_pods": (
            "Launcher pods whose load annotations cannot be read; they count as no load.",
            fleet.unreadable_pods,
        ),
        "lab_exporter_failing_metrics": ("Node metrics left out because their function failed.", len(text.failing)),
    }
    return "".join(
        f"# HELP {name} {help_text}\n# TYPE {name} gauge\n{name} {value}\n" for name, (help_text, value) in own.items()
    ).encode()
