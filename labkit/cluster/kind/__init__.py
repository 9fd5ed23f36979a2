"""The lab as containers: a KIND cluster in Docker or Podman, with the same manifests as on ``local``."""
