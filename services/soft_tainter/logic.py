"""Which taints a node should have, as a function of the classification.

How many each class gets is :func:`labkit.descheduling.soft_taints`'s; there is no hysteresis beyond the dead band
between the thresholds, as in production.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from labkit.descheduling import Classification, Thresholds, classify, soft_taints
from labkit.errors import InputError
from labkit.kube import Object

PREFIX: Final = "nodeutilization.descheduler.openshift.io/"
OVERUTILIZED_TAINT: Final = PREFIX + "overutilized"
APPROPRIATE_TAINT: Final = PREFIX + "appropriate"
KEYS: Final = (APPROPRIATE_TAINT, OVERUTILIZED_TAINT)
"""In the order in which nodes get them."""
EFFECT: Final = "PreferNoSchedule"


def is_ready(node: Object) -> bool:
    """Tell whether a node's condition Ready is true."""
    conditions = (node.get("status") or {}).get("conditions") or []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def selected(nodes: Sequence[Object], selector: str) -> list[Object]:
    """Return the ready nodes that the policy's ``nodeSelector`` matches, by name.

    Raises
    ------
    InputError
        If the selector is more than ``key=value`` terms parted by commas.
    """
    terms = []
    for term in filter(None, selector.split(",")):
        key, equals, value = term.partition("=")
        if not equals or key.endswith("!"):
            raise InputError(f"policy nodeSelector: wanted key=value terms, found {selector!r}")
        terms.append((key.strip(), value.lstrip("=").strip()))
    chosen = [
        node
        for node in nodes
        if is_ready(node) and all((node["metadata"].get("labels") or {}).get(key) == value for key, value in terms)
    ]
    return sorted(chosen, key=lambda node: str(node["metadata"]["name"]))


def classification_of(nodes: Sequence[Object], scores: Mapping[str, float], thresholds: Thresholds) -> Classification:
    """Classify nodes as the descheduler would now.

    Raises
    ------
    InputError
        If a node has no score, or one outside [0, 1]: then nothing is changed.
    """
    missing = [node["metadata"]["name"] for node in nodes if node["metadata"]["name"] not in scores]
    if missing:
        raise InputError(f"wanted a score of every node, found none of {', '.join(missing[:5])}")
    values = [scores[node["metadata"]["name"]] for node in nodes]
    schedulable = np.array([not node["spec"].get("unschedulable") for node in nodes], dtype=np.bool_)
    return classify(values, thresholds, schedulable=schedulable)


def wanted_taints(classification: Classification) -> list[tuple[str, ...]]:
    """Return the keys of our taints that each node should have, in the order of the nodes."""
    return [KEYS[:count] for count in soft_taints(classification).tolist()]


def taint_patch(node: Object, keys: Sequence[str]) -> dict[str, Any] | None:
    """Return the merge patch that gives a node exactly these of our taints; None if it has them.

    Taints are replaced as a whole, so the patch holds only for the version of the node that it was made from.
    """
    present = (node.get("spec") or {}).get("taints") or []
    others = [taint for taint in present if not taint["key"].startswith(PREFIX)]
    own = [taint["key"] for taint in present if taint["key"].startswith(PREFIX)]
    if sorted(own) == sorted(keys):
        return None
    taints = others + [{"key": key, "value": "true", "effect": EFFECT} for key in keys]
    return {"metadata": {"resourceVersion": node["metadata"]["resourceVersion"]}, "spec": {"taints": taints}}
