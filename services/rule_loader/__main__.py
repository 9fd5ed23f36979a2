"""Run the rule loader: once, to prepare Prometheus' first start, or beside it, with the webhook."""

from __future__ import annotations

import argparse
import logging
import os
import threading
from pathlib import Path
from typing import NoReturn

from labkit.kube import PROMETHEUS_RULES, Kube, Store
from labkit.names import LISTEN_ADDRESS_KEY, RULE_LOADER_PORT, TEMPO_KEY
from labkit.service import begin
from services.rule_loader.app import WebhookServer, tls_context
from services.rule_loader.loader import RuleFolder
from services.rule_loader.logic import Object, review
from services.rule_loader.promtool import check

COMPONENT = "rule-loader"
SYNC_TIMEOUT_SECONDS = 60.0

logger = logging.getLogger(__name__)


def main() -> None:
    """Write the configuration, then the rules; unless once is enough, go on for as long as the process lives."""
    parser = argparse.ArgumentParser(prog="services.rule_loader", description=__doc__)
    parser.add_argument("--once", action="store_true", help="write configuration and rules, then end")
    parser.add_argument("--template", type=Path, default=Path("/etc/prometheus-template/prometheus.yml"))
    parser.add_argument("--folder", type=Path, default=Path("/etc/prometheus"), help="the folder that Prometheus reads")
    parser.add_argument("--certificates", type=Path, default=Path("/certs"))
    args = parser.parse_args()
    begin()
    tempo = int(os.environ[TEMPO_KEY])
    kube = Kube.in_cluster()

    def report(obj: Object, reason: str, message: str) -> None:
        kube.record_event(obj, reason=reason, message=message, component=COMPONENT, warning=reason == "RulesRefused")

    folder = RuleFolder(args.folder, tempo, check, report)
    folder.write_config(args.template.read_text(), os.environ)
    if args.once:
        folder.sync(_with_kind(kube.list(PROMETHEUS_RULES)))
        return
    follow(folder, kube, tempo=tempo, certificates=args.certificates)


def follow(folder: RuleFolder, kube: Kube, *, tempo: int, certificates: Path) -> NoReturn:
    """Write every change, and answer for the webhook."""
    changed = threading.Event()
    store = Store(kube, PROMETHEUS_RULES)
    store.subscribe(lambda old, new: changed.set())
    store.start().wait_synced(SYNC_TIMEOUT_SECONDS)
    server = WebhookServer(
        (os.environ[LISTEN_ADDRESS_KEY], RULE_LOADER_PORT),
        lambda request: review(request, store.items(), tempo=tempo, check=check),
        tls_context(certificates),
    )
    threading.Thread(target=server.serve_forever, name="webhook", daemon=True).start()
    changed.set()
    while True:
        changed.wait()
        changed.clear()
        folder.sync(store.items())


def _with_kind(answer: Object) -> list[Object]:
    kind = answer["kind"].removesuffix("List")
    return [{"apiVersion": answer["apiVersion"], "kind": kind, **obj} for obj in answer["items"]]


if __name__ == "__main__":
    main()
