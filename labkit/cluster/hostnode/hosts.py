"""The pod's own ``/etc/hosts`` and ``/etc/nsswitch.conf``: Service names lead to the lab's address."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def hosts_text(
    services: Iterable[Mapping[str, Any]], *, namespace: str, address: str, cluster_domain: str, host_name: str
) -> str:
    """Return the hosts file of a pod.

    Parameters
    ----------
    services : iterable of Mapping
        Every Service of the cluster.
    namespace : str
        The pod's: Services there are known by their bare name too.
    address : str
        Where all of them are.
    cluster_domain : str
        Suffix of full names.
    host_name : str
        The machine's name.
    """
    lines = ["# Kept by the host node agent.", "127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    if host_name and host_name != "localhost":
        lines.append(f"127.0.1.1 {host_name}")
    names = sorted((service["metadata"]["namespace"], service["metadata"]["name"]) for service in services)
    for where, name in names:
        forms = [f"{name}.{where}.svc.{cluster_domain}", f"{name}.{where}.svc", f"{name}.{where}"]
        if where == namespace:
            forms.append(name)
        lines.append(f"{address} {' '.join(forms)}")
    return "\n".join(lines) + "\n"


def nsswitch_text(host_text: str) -> str:
    """Return the host's ``nsswitch.conf`` with names looked up in files first.

    Some hosts ask a resolver daemon before ``/etc/hosts``; that daemon sees the host's file, not the pod's.
    """
    lines = [line for line in host_text.splitlines() if not line.lstrip().startswith("hosts:")]
    return "\n".join([*lines, "hosts: files dns"]) + "\n"
