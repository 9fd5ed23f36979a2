"""Names that more than one part of the lab, or somebody outside it, relies on.

Kubernetes labels and annotations, object and metric names. A name is an API: it is written here once.
"""

from __future__ import annotations

from typing import Final

# --- custom resources -------------------------------------------------------------------------------
GROUP: Final = "simulation.node-classifier.io"
VM_KIND: Final = "VirtualMachine"
VM_PLURAL: Final = "virtualmachines"
SCENARIO_KIND: Final = "SimulationScenario"
SCENARIO_PLURAL: Final = "simulationscenarios"

# --- namespaces, deployments ------------------------------------------------------------------------
MONITORING_NAMESPACE: Final = "monitoring"
DESCHEDULER_NAMESPACE: Final = "kube-descheduler"
VM_NAMESPACE: Final = "default"
LAB_CONFIG_MAP: Final = "lab"
"""ConfigMap in each namespace of the lab, made by ``up``: the few values that differ between backends."""
POLICY_CONFIG_MAP: Final = "descheduler-policy"
MIGRATION_POLICY_CONFIG_MAP: Final = "migration-policy"
"""ConfigMap in namespace ``monitoring``: limits and timers of migrations, KubeVirt's option names."""
HOST_NODE: Final = "lab-host"
"""The node that carries the add-ons' pods on the local backend."""
KIND_CLUSTER: Final = "node-classifier-sim"
"""The cluster of the lab ``lab`` on backend ``kind``, as the quickstart names it."""

ADDON_NODE_LABEL: Final = "simulation.node-classifier.io/addons"
"""Label ("true") of the node that carries the add-ons' pods; their ``nodeSelector`` names it."""
ADDON_NODE_TAINT: Final = ADDON_NODE_LABEL
"""Taint ("true", NoSchedule) that keeps everything else off that node; add-ons tolerate everything."""

# Keys of the ConfigMap ``lab``; the pods get them as environment variables of the same names.
LISTEN_ADDRESS_KEY: Final = "LAB_LISTEN_ADDRESS"
TEMPO_KEY: Final = "LAB_TEMPO"
EPOCH_KEY: Final = "LAB_EPOCH"
"""Wall-clock time, in seconds since 1970 (UTC), of lab time 0.

The scenario controller moves it: to the far future while it places a scenario's VMs (before lab time 0 every curve
has its value at 0), to now when the scenario starts. The exporter watches the ConfigMap, so one write starts every
curve."""
PRESSURE_MODEL_KEY: Final = "LAB_PRESSURE_MODEL"
"""Curve from demand to pressure; ``monotone`` where it is not there."""
SCRAPE_INTERVAL_KEY: Final = "LAB_SCRAPE_INTERVAL"
EVALUATION_INTERVAL_KEY: Final = "LAB_EVALUATION_INTERVAL"
DESCHEDULING_INTERVAL_KEY: Final = "LAB_DESCHEDULING_INTERVAL"
LOOKBACK_KEY: Final = "LAB_LOOKBACK"
"""The three intervals, and Prometheus' look-back, in wall time, as Go durations: already divided by the tempo."""

# --- labels and annotations -------------------------------------------------------------------------
FAKE_NODE_ANNOTATION: Final = "kwok.x-k8s.io/node"
FAKE_NODE_TAINT: Final = "kwok.x-k8s.io/node"
SCHEDULABLE_LABEL: Final = "kubevirt.io/schedulable"
NODE_TYPE_LABEL: Final = "type"
NODE_TYPE_KWOK: Final = "kwok"
HOSTNAME_LABEL: Final = "kubernetes.io/hostname"

APP_LABEL: Final = "app"
LAUNCHER_APP: Final = "virt-launcher"
LAUNCHER_PREFIX: Final = "virt-launcher-"
LAUNCHER_LABEL: Final = "kubevirt.io"
LAUNCHER_LABEL_VALUE: Final = "virt-launcher"
DOMAIN_LABEL: Final = "kubevirt.io/domain"
VM_NAME_LABEL: Final = "vm.kubevirt.io/name"
CREATED_BY_LABEL: Final = "kubevirt.io/created-by"
MIGRATION_JOB_UID_LABEL: Final = "kubevirt.io/migrationJobUID"
NODE_NAME_LABEL: Final = "kubevirt.io/nodeName"

DOMAIN_ANNOTATION: Final = "kubevirt.io/domain"
REQUEST_EVICT_ONLY_ANNOTATION: Final = "descheduler.alpha.kubernetes.io/request-evict-only"
EVICTION_IN_PROGRESS_ANNOTATION: Final = "descheduler.alpha.kubernetes.io/eviction-in-progress"
EVICTION_SOURCE_ANNOTATION: Final = "kubevirt.io/eviction-source"
CPU_CORES_ANNOTATION: Final = "simulation.node-classifier.io/vm-cpu-cores"
MEMORY_BYTES_ANNOTATION: Final = "simulation.node-classifier.io/vm-memory-bytes"
CPU_UTILIZATION_ANNOTATION: Final = "simulation.node-classifier.io/vm-cpu-utilization"
MEMORY_UTILIZATION_ANNOTATION: Final = "simulation.node-classifier.io/vm-memory-utilization"
DIRTY_RATE_ANNOTATION: Final = "simulation.node-classifier.io/vm-dirty-rate-mbps"
LOAD_ANNOTATION: Final = "simulation.node-classifier.io/vm-load"
"""JSON of a load curve and its seed (``labkit.load``); without it the two utilisation annotations hold."""

REMINDED_ANNOTATION: Final = "simulation.node-classifier.io/reminded"
"""When the pod manager last touched a pod that its node had not started or removed for long."""
INITIAL_NODE_ANNOTATION: Final = "simulation.node-classifier.io/initial-node"
"""On a VirtualMachine: its first launcher pod is bound to this node, as a scenario's initial placement asks.

Later pods (migration targets, replacements) are placed by the scheduler alone."""

SCENARIO_LABEL: Final = "simulation.node-classifier.io/scenario"
"""On a VirtualMachine: the SimulationScenario that created it."""
DRAINING_ANNOTATION: Final = "simulation.node-classifier.io/draining"
"""On a node ("true"): a scenario drains it, so its VMs are asked to leave until it is empty."""

DESCHEDULER_REQUESTER: Final = "sigs.k8s.io/descheduler"
EVICTION_WEBHOOK: Final = "virt-launcher-eviction-interceptor.kubevirt.io"

# --- metrics ----------------------------------------------------------------------------------------
DIMENSIONS: Final = ("cpu_usage", "cpu_pressure", "memory_usage", "memory_pressure")
"""The four load ratios of a node, in the order of every array that holds them."""

BASE_RECORDS: Final = {
    "cpu_usage": "descheduler:node:cpu_usage:ratio",
    "cpu_pressure": "descheduler:node:cpu_pressure:psi",
    "memory_usage": "descheduler:node:memory_usage:ratio",
    "memory_pressure": "descheduler:node:memory_pressure:psi",
}
"""Instantaneous base record of each dimension, labelled ``instance``."""

MINUTE_RECORDS: Final = {
    "cpu_usage": "descheduler:nodeutilization:cpu:avg1m",
    "cpu_pressure": "descheduler:nodepressure:cpu:avg1m",
    "memory_usage": "descheduler:nodeutilization:memory:avg1m",
    "memory_pressure": "descheduler:nodepressure:memory:avg1m",
}
"""Production's one-minute record of each dimension, labelled ``instance``."""

NODE_LABEL: Final = "instance"
"""Label that carries the node's name on every score: the descheduler keys on it."""

# --- ports, the same on every backend; on `local` at the lab's own loopback address -----------------
PROMETHEUS_PORT: Final = 9090
EXPORTER_PORT: Final = 8000
EXPORTER_HOST_PORT: Final = 8001
SCORER_PORT: Final = 8002
EVICTION_WEBHOOK_PORT: Final = 8443
RULE_LOADER_PORT: Final = 8444
VM_CONTROLLER_PORT: Final = 8005
POD_MANAGER_PORT: Final = 8006
SCENARIO_CONTROLLER_PORT: Final = 8007
SOFT_TAINTER_PORT: Final = 8008
DESCHEDULER_PORT: Final = 10258

# The control plane on `local`: below the ports that the kernel hands out, and not those of a real cluster.
API_SERVER_PORT: Final = 16443
ETCD_PORT: Final = 12379
ETCD_PEER_PORT: Final = 12380
KWOK_PORT: Final = 20247
HOST_NODE_PORT: Final = 20250
CONTROLLER_MANAGER_PORT: Final = 20257
SCHEDULER_PORT: Final = 20259

# --- cadence at tempo 1, in lab seconds (the quickstart's) ------------------------------------------
SCRAPE_INTERVAL_SECONDS: Final = 15.0
EVALUATION_INTERVAL_SECONDS: Final = 15.0
DESCHEDULING_INTERVAL_SECONDS: Final = 60.0
LOOKBACK_SECONDS: Final = 300.0
"""How old a sample an expression still takes for the current one; Prometheus' own default."""
LOAD_STEP_SECONDS: Final = 15.0
"""Load curves are constant within each lab step of this length, on every backend."""
SETTLE_SECONDS: Final = 75.0
"""A scenario starts (lab time 0) when its VMs have been running for this long: the one-minute windows of the rules are
full then, on every backend alike, and hold the load of lab time 0."""
MAX_TEMPO: Final = 15
