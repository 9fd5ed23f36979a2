"""Run the scorer: answer Prometheus' scrapes, take users' algorithms from their ConfigMap."""

from __future__ import annotations

import argparse
import os

import waitress

from labkit.kube import CONFIG_MAPS, Kube, Object, Store
from labkit.names import LISTEN_ADDRESS_KEY, MONITORING_NAMESPACE, PROMETHEUS_PORT, SCORER_PORT
from labkit.prometheus import Prometheus
from labkit.scoring import user
from labkit.service import begin
from services.scorer.app import create_app
from services.scorer.logic import Scorer

QUERY_TIMEOUT_SECONDS = 5.0
SYNC_TIMEOUT_SECONDS = 60.0


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="services.scorer", description=__doc__)
    parser.add_argument(
        "--prometheus",
        default=f"http://prometheus.{MONITORING_NAMESPACE}.svc:{PROMETHEUS_PORT}",
        help="where the load records are (default: %(default)s)",
    )
    args = parser.parse_args()
    begin()
    scorer = Scorer(Prometheus(args.prometheus, timeout=QUERY_TIMEOUT_SECONDS))
    store = Store(
        Kube.in_cluster(),
        CONFIG_MAPS,
        namespace=MONITORING_NAMESPACE,
        field_selector=f"metadata.name={user.CONFIG_MAP}",
    )

    def changed(old: Object | None, new: Object | None) -> None:
        before, after = _files(old), _files(new)
        if before != after:
            scorer.install(after)

    store.subscribe(changed)
    store.start().wait_synced(SYNC_TIMEOUT_SECONDS)
    waitress.serve(
        create_app(scorer),
        host=os.environ[LISTEN_ADDRESS_KEY],
        port=SCORER_PORT,
        threads=2,
        ident="labkit-scorer",
    )


def _files(config_map: Object | None) -> dict[str, str]:
    return dict((config_map or {}).get("data") or {})


if __name__ == "__main__":
    main()
