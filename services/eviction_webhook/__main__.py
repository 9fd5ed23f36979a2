"""Run the eviction webhook."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from types import FrameType

from labkit.kube import Kube
from labkit.names import EVICTION_WEBHOOK_PORT, LISTEN_ADDRESS_KEY
from services.eviction_webhook.app import Interceptor
from services.eviction_webhook.server import Certificates, Server

CERTIFICATES_KEY = "LAB_CERTIFICATES"
CERTIFICATES_FOLDER = "/certs"


def main() -> None:
    """Answer evictions until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, _stop)
    certificates = Certificates(Path(os.environ.get(CERTIFICATES_KEY, CERTIFICATES_FOLDER)))
    address = (os.environ[LISTEN_ADDRESS_KEY], EVICTION_WEBHOOK_PORT)
    Server(address, Interceptor(Kube.from_environment()), certificates).serve_forever()


def _stop(signal_number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    main()
