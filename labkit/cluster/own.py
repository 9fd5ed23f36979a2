"""Bring users' algorithms to a running lab: their rules to Prometheus, their functions to the scorer."""

from __future__ import annotations

import logging
from typing import Final

from labkit import scoring
from labkit.kube import Kube
from labkit.scoring import Algorithm, user

logger = logging.getLogger(__name__)

SCORES_TIMEOUT_SECONDS: Final = 120.0
"""How long new records may take: the rules' loading, a scrape of the scorer, an evaluation, at tempo 1."""


def bring(kube: Kube, algorithm: Algorithm) -> bool:
    """Apply what a user's algorithm needs in the cluster.

    Parameters
    ----------
    kube : Kube
        The lab's API server.
    algorithm : Algorithm
        Any; for one of the lab's own there is nothing to do.

    Returns
    -------
    bool
        Whether something was applied, so that its scores may take a while.

    Notes
    -----
    All functions of the user's go into one ConfigMap, so that switching to one does not take another away.

    Raises
    ------
    KubeError
        If the API server refuses an object; the rule loader's webhook answers with promtool's words.
    """
    if algorithm.file is None:
        return False
    functions = [each for each in scoring.algorithms() if each.file is not None and each.computed_by == "scorer"]
    wanted = [*(each for each in functions if each.file != algorithm.file), *scoring.load(algorithm.file)]
    for obj in user.manifests(wanted):
        kube.apply(obj)
        logger.info("applied %s %s", obj["kind"], obj["metadata"]["name"])
    return True
