"""Scores that PromQL cannot compute: read the load records of one evaluation, expose `lab_node_score`."""
