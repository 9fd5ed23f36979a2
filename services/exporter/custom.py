"""Metrics of your own: write a function here, restart the exporter, and Prometheus scrapes it.

See docs/metrics.md, "Custom metrics", for an example that ends in a score.
"""
