"""An experiment lab for load-aware VM rebalancing on Kubernetes."""
