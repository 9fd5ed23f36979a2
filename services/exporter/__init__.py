"""The metrics exporter: what the VMs make of their nodes, as node_exporter and kube-state-metrics would say it."""
