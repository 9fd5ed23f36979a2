"""The control plane as processes: which programs, with which arguments, identities and files.

etcd, kube-apiserver, kube-controller-manager, kube-scheduler, KWOK and the host node agent, all on the lab's
loopback address. The scheduler runs at its defaults, because its choices are part of what is measured. Everybody
has a certificate of the lab's own authority; etcd has an authority of its own, so that nobody but the API server
gets in.

kwokctl can bring up most of this, but it reaches everything at 127.0.0.1 and takes other ports for a second
cluster; a lab has an address of its own and always the same ports.
"""

from __future__ import annotations

import json
import os
import sys
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from labkit.cluster.component import Component, Gate
from labkit.cluster.config import LabFolder, LabRecord, write_whole
from labkit.cluster.pki import Authority, Pair, new_key
from labkit.cluster.tools import pages_folder
from labkit.datafiles import data_path
from labkit.names import (
    API_SERVER_PORT,
    CONTROLLER_MANAGER_PORT,
    ETCD_PEER_PORT,
    ETCD_PORT,
    FAKE_NODE_ANNOTATION,
    HOST_NODE,
    HOST_NODE_PORT,
    KWOK_PORT,
    SCHEDULER_PORT,
)

ETCD: Final = "etcd"
API_SERVER: Final = "kube-apiserver"
CONTROLLER_MANAGER: Final = "kube-controller-manager"
SCHEDULER: Final = "kube-scheduler"
KWOK: Final = "kwok"
AGENT: Final = "host-node-agent"

PORTS: Final[Mapping[str, int]] = {
    ETCD: ETCD_PORT,
    API_SERVER: API_SERVER_PORT,
    CONTROLLER_MANAGER: CONTROLLER_MANAGER_PORT,
    SCHEDULER: SCHEDULER_PORT,
    KWOK: KWOK_PORT,
    AGENT: HOST_NODE_PORT,
}
"""Port on which each component says how it is."""

NODE_GRACE_SECONDS: Final = 40
"""A node of which nothing was heard for that long is not Ready; Kubernetes' own default is 50 s."""
POD_CIDR: Final = "10.64.0.1/12"
SERVICE_CIDR: Final = "10.32.0.0/16"
# With an election, a killed component would wait for its own lease to run out.
NO_ELECTION: Final[Mapping[str, str]] = {"leader-elect": "false"}
CONTROLLER_MANAGER_OPTIONS: Final[Mapping[str, str]] = {
    "node-monitor-grace-period": f"{NODE_GRACE_SECONDS}s",
    "kube-api-qps": "200",
    "kube-api-burst": "400",
}
# A lab outlives the death of a process, not that of the machine.
ETCD_OPTIONS: Final[Mapping[str, str]] = {"unsafe-no-fsync": "true"}
AGENT_STOP_SECONDS: Final = 3.0

CLUSTER_CA: Final = "ca"
ETCD_CA: Final = "etcd-ca"
WEBHOOK_CLIENT: Final = "webhook-client"
"""The certificate by which webhooks know the API server."""


# --- identities --------------------------------------------------------------------------------------


def write_identities(folder: LabFolder, address: str) -> None:
    """Make every certificate, key and kubeconfig of a new lab."""
    pki = folder.pki
    pki.mkdir(mode=0o700, parents=True, exist_ok=True)
    cluster = Authority.new(f"labkit-{folder.name}")
    etcd = Authority.new(f"labkit-{folder.name}-etcd")
    cluster.pair.write(pki, CLUSTER_CA)
    etcd.pair.write(pki, ETCD_CA)
    etcd.issue("etcd", hosts=[address]).write(pki, "etcd")
    etcd.issue("kube-apiserver").write(pki, "etcd-client")
    names = [address, "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    cluster.issue("kube-apiserver", hosts=names).write(pki, "apiserver")
    cluster.issue("kube-apiserver-kubelet-client", organizations=["system:masters"]).write(pki, "kubelet-client")
    cluster.issue("kube-apiserver-webhook-client").write(pki, WEBHOOK_CLIENT)
    for component in (CONTROLLER_MANAGER, SCHEDULER, KWOK, AGENT):
        cluster.issue(component, hosts=[address, "localhost"]).write(pki, component)
    write_whole(pki / "service-account.key", new_key())

    users: Mapping[str, tuple[str, Sequence[str]]] = {
        "admin": ("labkit-admin", ["system:masters"]),
        CONTROLLER_MANAGER: ("system:kube-controller-manager", []),
        SCHEDULER: ("system:kube-scheduler", []),
        KWOK: ("kwok", ["system:masters"]),
        AGENT: (f"system:node:{HOST_NODE}", ["system:nodes"]),
    }
    for role, (user, groups) in users.items():
        pair = cluster.issue(user, organizations=groups)
        path = folder.kubeconfig if role == "admin" else kubeconfig_of(folder, role)
        write_whole(path, kubeconfig(folder.name, address, cluster.pair, pair, user=user))


def kubeconfig_of(folder: LabFolder, component: str) -> Path:
    """Return the kubeconfig of a component."""
    return folder.pki / f"{component}.kubeconfig"


def kubeconfig(lab: str, address: str, authority: Pair, pair: Pair, *, user: str) -> str:
    """Return a kubeconfig that needs no other file."""
    cluster = f"labkit-{lab}"
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": cluster,
                    "cluster": {
                        "server": server_url(address),
                        "certificate-authority-data": _base64(authority.certificate),
                    },
                }
            ],
            "users": [
                {
                    "name": user,
                    "user": {
                        "client-certificate-data": _base64(pair.certificate),
                        "client-key-data": _base64(pair.key),
                    },
                }
            ],
            "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": user}}],
            "current-context": cluster,
        }
    )


def server_url(address: str) -> str:
    """Return the URL of the API server of the lab at an address."""
    return f"https://{address}:{API_SERVER_PORT}"


# --- configuration files -----------------------------------------------------------------------------


def write_configuration(folder: LabFolder, record: LabRecord) -> None:
    """Write the files that the components read besides their arguments."""
    pki = folder.pki
    write_whole(
        pki / "webhook.kubeconfig",
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "users": [
                    {
                        "name": "*",  # whatever the webhook's address
                        "user": {
                            "client-certificate": str(pki / f"{WEBHOOK_CLIENT}.crt"),
                            "client-key": str(pki / f"{WEBHOOK_CLIENT}.key"),
                        },
                    }
                ],
            }
        ),
    )
    webhooks = {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "WebhookAdmissionConfiguration",
        "kubeConfigFile": str(pki / "webhook.kubeconfig"),
    }
    write_whole(
        folder.admission_file,
        yaml.safe_dump(
            {
                "apiVersion": "apiserver.config.k8s.io/v1",
                "kind": "AdmissionConfiguration",
                "plugins": [
                    {"name": name, "configuration": webhooks}
                    for name in ("MutatingAdmissionWebhook", "ValidatingAdmissionWebhook")
                ],
            }
        ),
    )
    write_whole(folder.audit_policy_file, yaml.safe_dump(audit_policy()))
    write_whole(folder.kwok_file, kwok_configuration())
    config = record.config
    write_whole(
        folder.hostnode_file,
        json.dumps(
            {
                "node_name": HOST_NODE,
                "address": config.address,
                "kubeconfig": str(kubeconfig_of(folder, AGENT)),
                "state_dir": str(folder.hostnode),
                "tools_dir": record.tools_path,
                "path": [str(Path(sys.executable).parent), record.tools_path, *_real_folders(record)],
                "api_server_host": config.address,
                "api_server_port": API_SERVER_PORT,
                "ca_file": str(pki / f"{CLUSTER_CA}.crt"),
                "kwok_port": KWOK_PORT,
                "kubelet_port": HOST_NODE_PORT,
                "cert_file": str(pki / f"{AGENT}.crt"),
                "key_file": str(pki / f"{AGENT}.key"),
                "cluster_domain": "cluster.local",
                "static_dir_prometheus": _static_pages(),
                "logs_dir": str(folder.logs / "pods"),
            },
            indent=1,
        ),
    )


def audit_policy() -> dict[str, Any]:
    """Return the audit policy: who asked to evict or delete a pod, and what the answer was; nothing else."""
    pods = [{"group": "", "resources": ["pods/eviction"]}]
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "omitManagedFields": True,
        "rules": [
            {"level": "Request", "verbs": ["create"], "resources": pods},
            {
                "level": "Metadata",
                "verbs": ["delete", "deletecollection"],
                "resources": [{"group": "", "resources": ["pods"]}],
            },
            {"level": "None"},
        ],
    }


def kwok_configuration() -> str:
    """Return KWOK's configuration: its options and the lab's stages."""
    options = {
        "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
        "kind": "KwokConfiguration",
        "options": {
            # These serve kubectl logs and port-forward.
            "enableDebuggingHandlers": True,
            "podPlayStageParallelism": 16,
            "nodePlayStageParallelism": 16,
        },
    }
    stages = [path.read_text() for path in sorted(data_path("k8s", "stages").glob("*.yaml"))]
    return "\n---\n".join([yaml.safe_dump(options), *stages])


# --- processes ---------------------------------------------------------------------------------------


def components(folder: LabFolder, record: LabRecord) -> list[Component]:
    """Return the processes of a lab, in the order of starting."""
    address, pki, tools = record.config.address, folder.pki, Path(record.tools_path)
    environment = _environment(record)

    def tls(name: str) -> dict[str, str]:
        return {"tls-cert-file": str(pki / f"{name}.crt"), "tls-private-key-file": str(pki / f"{name}.key")}

    def serving(name: str) -> dict[str, str]:
        config = str(kubeconfig_of(folder, name))
        return {
            "kubeconfig": config,
            "authentication-kubeconfig": config,
            "authorization-kubeconfig": config,
            "authorization-always-allow-paths": "/healthz,/readyz,/livez,/metrics",
            "bind-address": address,
            "secure-port": str(PORTS[name]),
            "profiling": "false",
        } | {**NO_ELECTION, **tls(name)}

    etcd_url, peer_url = f"https://{address}:{ETCD_PORT}", f"https://{address}:{ETCD_PEER_PORT}"
    etcd = {
        "name": "lab",
        "data-dir": str(folder.etcd),
        "listen-client-urls": etcd_url,
        "advertise-client-urls": etcd_url,
        "listen-peer-urls": peer_url,
        "initial-advertise-peer-urls": peer_url,
        "initial-cluster": f"lab={peer_url}",
        "client-cert-auth": "true",
        "trusted-ca-file": str(pki / f"{ETCD_CA}.crt"),
        "cert-file": str(pki / "etcd.crt"),
        "key-file": str(pki / "etcd.key"),
        "peer-client-cert-auth": "true",
        "peer-trusted-ca-file": str(pki / f"{ETCD_CA}.crt"),
        "peer-cert-file": str(pki / "etcd.crt"),
        "peer-key-file": str(pki / "etcd.key"),
        "quota-backend-bytes": str(4 * 2**30),
        "max-wals": "2",
        "max-snapshots": "1",
        "log-level": "warn",
    } | dict(ETCD_OPTIONS)
    api_server = {
        "bind-address": address,
        "advertise-address": address,
        "secure-port": str(API_SERVER_PORT),
        "client-ca-file": str(pki / f"{CLUSTER_CA}.crt"),
        "etcd-servers": etcd_url,
        "etcd-cafile": str(pki / f"{ETCD_CA}.crt"),
        "etcd-certfile": str(pki / "etcd-client.crt"),
        "etcd-keyfile": str(pki / "etcd-client.key"),
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "admission-control-config-file": str(folder.admission_file),
        "service-account-issuer": "https://kubernetes.default.svc",
        "service-account-key-file": str(pki / "service-account.key"),
        "service-account-signing-key-file": str(pki / "service-account.key"),
        "service-cluster-ip-range": SERVICE_CIDR,
        # The endpoints of service kubernetes may not be loopback addresses, and nothing here uses them.
        "endpoint-reconciler-type": "none",
        "kubelet-certificate-authority": str(pki / f"{CLUSTER_CA}.crt"),
        "kubelet-client-certificate": str(pki / "kubelet-client.crt"),
        "kubelet-client-key": str(pki / "kubelet-client.key"),
        "kubelet-preferred-address-types": "InternalIP",
        "audit-policy-file": str(folder.audit_policy_file),
        "audit-log-path": str(folder.audit_log),
        "audit-log-maxsize": "64",
        "audit-log-maxbackup": "2",
        "profiling": "false",
        "shutdown-delay-duration": "0s",
    } | tls("apiserver")
    controller_manager = (
        serving(CONTROLLER_MANAGER)
        | {
            "root-ca-file": str(pki / f"{CLUSTER_CA}.crt"),
            "service-account-private-key-file": str(pki / "service-account.key"),
            "use-service-account-credentials": "true",
        }
        | dict(CONTROLLER_MANAGER_OPTIONS)
    )
    kwok = {
        "kubeconfig": str(kubeconfig_of(folder, KWOK)),
        "config": str(folder.kwok_file),
        "manage-all-nodes": "false",
        "manage-nodes-with-annotation-selector": f"{FAKE_NODE_ANNOTATION}=fake",
        "node-ip": address,
        "node-port": str(KWOK_PORT),
        "server-address": f"{address}:{KWOK_PORT}",
        "cidr": POD_CIDR,
        # With leases, KWOK passes over pods that were bound or deleted while it was away: it lists a node's pods the
        # moment it has written the lease, and skips them where its own watch has not shown that lease yet. The stage
        # node-heartbeat tells that the nodes live.
        "node-lease-duration-seconds": "0",
        # Stage among them would drop the stages of the file; Exec would let any local user run programs.
        "enable-crds": "Logs,PortForward",
    } | tls(KWOK)
    agent = (sys.executable, "-m", "labkit.cluster.hostnode", "--config", str(folder.hostnode_file))
    ready = Gate(address, API_SERVER_PORT, path="/readyz", ca_file=str(pki / f"{CLUSTER_CA}.crt"))
    return [
        Component(ETCD, _command(tools / "etcd", etcd), environment, gate=Gate(address, ETCD_PORT)),
        Component(API_SERVER, _command(tools / API_SERVER, api_server), environment, after=(ETCD,), gate=ready),
        Component(
            CONTROLLER_MANAGER,
            _command(tools / CONTROLLER_MANAGER, controller_manager),
            environment,
            after=(API_SERVER,),
            gate=Gate(address, CONTROLLER_MANAGER_PORT),
        ),
        Component(
            SCHEDULER,
            _command(tools / SCHEDULER, serving(SCHEDULER)),
            environment,
            after=(API_SERVER,),
            gate=Gate(address, SCHEDULER_PORT),
        ),
        Component(
            KWOK,
            _command(tools / KWOK, kwok),
            environment,
            after=(API_SERVER,),
            gate=Gate(address, KWOK_PORT),
        ),
        Component(AGENT, agent, environment, after=(API_SERVER,), stop_seconds=AGENT_STOP_SECONDS),
    ]


def _command(program: Path, arguments: Mapping[str, str]) -> tuple[str, ...]:
    return (str(program), *(f"--{name}={value}" for name, value in arguments.items()))


def _environment(record: LabRecord) -> dict[str, str]:
    """Return the environment of every component: no proxy, no kubeconfig of the user's."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR", "SSL_CERT_FILE") if name in os.environ}
    own = {name: value for name, value in os.environ.items() if name.startswith("LABKIT_")}
    path = [str(Path(sys.executable).parent), record.tools_path, os.environ.get("PATH", os.defpath)]
    return kept | own | {"PATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}


def _real_folders(record: LabRecord) -> list[str]:
    """Return the folders that the links to the tools lead to: the agent must show them to the pods."""
    return sorted({str(link.resolve().parent) for link in Path(record.tools_path).iterdir()})


def _static_pages() -> str | None:
    """Return the folder with Prometheus' pages, None where they were not built."""
    pages = pages_folder() / "static"
    return str(pages) if pages.is_dir() else None


def _base64(text: str) -> str:
    return b64encode(text.encode()).decode()
