"""Figures: one function each, tables and an Axes in, the Axes out."""

from labkit.plots.algorithms import score_parts, score_surface, score_table
from labkit.plots.comparison import critical_difference, overlay, pareto, ranking, ridges, survival
from labkit.plots.fidelity import agreement, bumps
from labkit.plots.run import (
    before_and_after,
    cumulative,
    heat_map,
    migration_arcs,
    placement,
    scores,
    utilisation,
)
from labkit.plots.style import algorithm_style, lab_style, node_styles, save

__all__ = [
    "agreement",
    "algorithm_style",
    "before_and_after",
    "bumps",
    "critical_difference",
    "cumulative",
    "heat_map",
    "lab_style",
    "migration_arcs",
    "node_styles",
    "overlay",
    "pareto",
    "placement",
    "ranking",
    "ridges",
    "save",
    "score_parts",
    "score_surface",
    "score_table",
    "scores",
    "survival",
    "utilisation",
]
