"""Run the eviction webhook."""

from __future__ import annotations

import os
from pathlib import Path

from labkit.kube import Kube
from labkit.names import EVICTION_WEBHOOK_PORT, LISTEN_ADDRESS_KEY
from labkit.service import begin
from services.eviction_webhook.app import Interceptor
from services.eviction_webhook.server import Certificates, Server

CERTIFICATES_KEY = "LAB_CERTIFICATES"
CERTIFICATES_FOLDER = "/certs"


def main() -> None:
    """Answer evictions until SIGTERM."""
    begin()
    certificates = Certificates(Path(os.environ.get(CERTIFICATES_KEY, CERTIFICATES_FOLDER)))
    address = (os.environ[LISTEN_ADDRESS_KEY], EVICTION_WEBHOOK_PORT)
    Server(address, Interceptor(Kube.from_environment()), certificates).serve_forever()


if __name__ == "__main__":
    main()
