"""How much of what they asked for the VMs got: delivered over demanded CPU, per VM.

Balance is a means; this is the end it serves. A VM on a node whose VMs demand more cores than it has gets its share of
them; a VM that runs nowhere gets nothing. Needs each VM's demand, which no table holds: it follows from the scenario.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from labkit.model import FloatArray, IntArray

UNHAPPY_RATIO: Final = 0.95
"""A VM that got less than this share of its demand over the run counts as unhappy."""


def happiness(demand_cores: FloatArray, node_of: IntArray, node_cores: FloatArray) -> FloatArray:
    """Return each VM's delivered over demanded CPU.

    ``sum_t d_j(t) min(1, C_n / D_n(t)) / sum_t d_j(t)``, with ``d_j`` the VM's demand in cores, ``n`` the node on which
    it runs at ``t``, ``C_n`` that node's cores and ``D_n`` the demand of all VMs there.

    Parameters
    ----------
    demand_cores : FloatArray
        Shape (n_times, n_vms), at evenly spaced instants; 0 while a VM does not exist.
    node_of : IntArray
        Shape (n_times, n_vms), the node on which each VM runs, -1 for none: its demand is then not met.
    node_cores : FloatArray
        Shape (n_nodes,), cores of each node.

    Returns
    -------
    FloatArray
        Shape (n_vms,), in [0, 1]; NaN for a VM that demanded nothing.

    References
    ----------
    The idea is that of the VM DRS score of VMware vSphere 7 (there with memory, network and migration cost); the
    formula is defined here.
    """
    nodes = len(node_cores)
    delivered = np.zeros(demand_cores.shape[1])
    for demand, places in zip(demand_cores, node_of, strict=True):
        total = np.bincount(places + 1, weights=demand, minlength=nodes + 1)[1:]
        share = np.zeros(nodes + 1)
        np.divide(node_cores, total, out=share[1:], where=total > 0)
        delivered += demand * np.minimum(share, 1.0)[places + 1]
    demanded = demand_cores.sum(axis=0)
    ratio = np.full(len(demanded), np.nan)
    np.divide(delivered, demanded, out=ratio, where=demanded > 0)
    # The two sums are rounded differently: a VM that got everything got 1.
    return np.asarray(np.minimum(ratio, 1.0), dtype=np.float64)


def happiness_summary(ratios: FloatArray) -> dict[str, float]:
    """Return mean, least, and the share of VMs below :data:`UNHAPPY_RATIO`; NaN without VMs that demanded anything."""
    known = ratios[~np.isnan(ratios)]
    if not len(known):
        return dict.fromkeys(("happiness_mean", "happiness_min", "unhappy_vms_ratio"), float("nan"))
    return {
        "happiness_mean": float(known.mean()),
        "happiness_min": float(known.min()),
        "unhappy_vms_ratio": float((known < UNHAPPY_RATIO).mean()),
    }
