"""Where images come from: the public ones, a mirror, or a site's own.

A machine that reaches a public registry needs nothing of this. One that reaches only a mirror names it once; one that
reaches nothing names images that were loaded into the engine by hand.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import labkit
from labkit import versions
from labkit.errors import InputError

SERVICES: Final = f"labkit/services:{labkit.__version__}"
PROMETHEUS: Final = f"labkit/prometheus:{versions.PROMETHEUS}"
DESCHEDULER: Final = f"labkit/descheduler:{versions.DESCHEDULER}"
KWOK: Final = f"labkit/kwok:{versions.KWOK}"
IMAGES: Final = (SERVICES, PROMETHEUS, DESCHEDULER, KWOK)
"""As the manifests name them; what runs on a cluster carries a tag by content in its place."""

NODE_IMAGE: Final = "kindest/node:v1.36.4@sha256:099e049362a1526b2db71494e1947aae99bd16290d7c895f2b7ea312e3cbfaed"
"""The image of this Kubernetes' minor version that kind's release ``versions.KIND`` lists."""
BASE_IMAGE: Final = "python:3.11-slim"
"""What the services' image is built on: a small Linux with Python 3.11 or newer."""

NODE_VARIABLE: Final = "LABKIT_KIND_NODE_IMAGE"
BASE_VARIABLE: Final = "LABKIT_KIND_BASE_IMAGE"
REGISTRY_VARIABLE: Final = "LABKIT_KIND_REGISTRY"
OWN_VARIABLES: Final[Mapping[str, str]] = {
    SERVICES: "LABKIT_KIND_SERVICES_IMAGE",
    PROMETHEUS: "LABKIT_KIND_PROMETHEUS_IMAGE",
    DESCHEDULER: "LABKIT_KIND_DESCHEDULER_IMAGE",
    KWOK: "LABKIT_KIND_KWOK_IMAGE",
}


@dataclass(frozen=True)
class Settings:
    """The images of one cluster.

    Parameters
    ----------
    node : str
        Image of the cluster's node.
    base : str
        Image that the services' image is built on.
    own : Mapping of str to str
        For some of ``IMAGES``, an image to use as it is in place of building one.
    """

    node: str = NODE_IMAGE
    base: str = BASE_IMAGE
    own: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the variables ``LABKIT_KIND_*``.

        Raises
        ------
        InputError
            If one cannot be the name of an image or registry.
        """
        registry = _checked(REGISTRY_VARIABLE, environ.get(REGISTRY_VARIABLE, "").rstrip("/"))
        if "://" in registry:
            raise InputError(
                f"wanted a registry without a scheme in {REGISTRY_VARIABLE}, such as mirror.example:5000, "
                f"found {registry!r}"
            )
        return cls(
            node=_checked(NODE_VARIABLE, environ.get(NODE_VARIABLE, "")) or _mirrored(NODE_IMAGE, registry),
            base=_checked(BASE_VARIABLE, environ.get(BASE_VARIABLE, "")) or _mirrored(BASE_IMAGE, registry),
            own={
                image: _checked(variable, environ[variable])
                for image, variable in OWN_VARIABLES.items()
                if environ.get(variable)
            },
        )


def _checked(variable: str, value: str) -> str:
    if value != value.strip() or any(character.isspace() for character in value) or value.startswith("-"):
        raise InputError(f"wanted a name without spaces in {variable}, found {value!r}: correct it or unset it")
    return value


def _mirrored(image: str, registry: str) -> str:
    if not registry:
        return image
    # Mirrors keep what has no owner under the name that the public registry gives it.
    return f"{registry}/{image}" if "/" in image else f"{registry}/library/{image}"
