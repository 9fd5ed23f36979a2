"""``labkit use``: let the running descheduler go by another algorithm."""

from __future__ import annotations

import argparse
import json
import math

HELP = "switch the descheduler of a running lab to another algorithm"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    from labkit.cluster.config import default_name

    parser.add_argument(
        "algorithm",
        metavar="ALGORITHM",
        help="a name from 'labkit algorithms', a record, or 'query:' and PromQL that yields 0 to 1 per node",
    )
    parser.add_argument(
        "--thresholds",
        metavar="LOW:HIGH",
        help="percentage points below and above the mean, or a preset such as AsymmetricLow (default: as they are)",
    )
    parser.add_argument("--evictions-per-node", type=int, metavar="N", help="per cycle (default: as it is)")
    parser.add_argument("--evictions-total", type=int, metavar="N", help="per cycle (default: as it is)")
    parser.add_argument(
        "--timeout", type=float, default=120.0, metavar="SECONDS", help="how long to wait (default: %(default)g)"
    )
    parser.add_argument("--name", default=default_name(), help="the lab's name (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Do it; return the exit code."""
    from labkit import cluster
    from labkit.cluster.algorithm import switch_algorithm
    from labkit.errors import InputError
    from labkit.names import DESCHEDULER_NAMESPACE, POLICY_CONFIG_MAP, PROMETHEUS_PORT
    from labkit.prometheus import Prometheus

    if not 0 < args.timeout < math.inf:
        raise InputError(f"wanted a timeout above 0 s, found {args.timeout:g}")
    lab = cluster.find(args.name)
    switch = switch_algorithm(
        lab.kube,
        Prometheus(lab.url(PROMETHEUS_PORT)),
        args.algorithm,
        thresholds=args.thresholds,
        evictions_per_node=args.evictions_per_node,
        evictions_total=args.evictions_total,
        timeout_seconds=args.timeout,
    )
    policy = switch.policy
    if args.json:
        values = {
            "algorithm": switch.algorithm,
            "query": policy.query,
            "thresholds": f"{policy.low:g}:{policy.high:g}",
            "evictions_per_node": policy.evictions_per_node,
            "evictions_total": policy.evictions_total,
            "pod": switch.pod,
            "seconds": round(switch.seconds, 3),
        }
        print(json.dumps(values, indent=1))
        return 0
    print(f"the descheduler goes by {policy.query}, thresholds {policy.low:g}:{policy.high:g}; pod {switch.pod}")
    print(
        f"changed: ConfigMap {POLICY_CONFIG_MAP} in {DESCHEDULER_NAMESPACE}; the file k8s/descheduler-policy.yaml is "
        "as it was, and applying it sets the policy back"
    )
    return 0
