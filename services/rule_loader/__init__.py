"""The rule loader: PrometheusRule objects in, the files that Prometheus reads out, broken rules refused."""
