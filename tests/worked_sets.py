"""Small sets of nodes with scores worked out by hand from the definitions.

Columns: CPU use, CPU pressure, memory use, memory pressure.

Set A: sums (1.5, .3, 1.2, .3), so the mean is (.5, .1, .4, .1) and the distances from it are
n1 (.4, .2, .2, -.1), n2 (0, -.1, 0, 0), n3 (-.4, -.1, -.2, .1).
Set B: mean (.541667, .0716667, .591667, .0766667); n1 to n5 do not dominate each other, all dominate n6.
Set C: one full and two idle nodes; mean 1/3 everywhere, n1 is 2/3 above it in each dimension.
"""

from __future__ import annotations

from labkit.model import Snapshot

A = Snapshot.of(["n1", "n2", "n3"], [(0.9, 0.3, 0.6, 0.0), (0.5, 0.0, 0.4, 0.1), (0.1, 0.0, 0.2, 0.2)])
B = Snapshot.of(
    ["n1", "n2", "n3", "n4", "n5", "n6"],
    [
        (0.1, 0.01, 0.9, 0.09),
        (0.2, 0.02, 0.8, 0.08),
        (0.4, 0.04, 0.5, 0.05),
        (0.7, 0.07, 0.3, 0.03),
        (0.9, 0.09, 0.1, 0.01),
        (0.95, 0.2, 0.95, 0.2),
    ],
)
C = Snapshot.of(["n1", "n2", "n3"], [(1.0,) * 4, (0.0,) * 4, (0.0,) * 4])
SETS = {"A": A, "B": B, "C": C}

ONE_THIRD_OF_TWO = 2 / 3
SCORES: dict[str, dict[str, list[float]]] = {
    # A: 1.8/4, 1.0/4, .5/4
    "weighted_average": {"A": [0.45, 0.25, 0.125], "B": [0.275, 0.275, 0.2475, 0.275, 0.275, 0.575], "C": [1, 0, 0]},
    "max_metric": {"A": [0.9, 0.5, 0.2], "B": [0.9, 0.8, 0.5, 0.7, 0.9, 0.95], "C": [1, 0, 0]},
    # A: sqrt(1.26)/2, sqrt(.42)/2, sqrt(.09)/2
    "euclidean_distance": {
        "A": [0.561249, 0.324037, 0.15],
        "B": [0.455027, 0.414367, 0.321753, 0.382688, 0.455027, 0.686477],
        "C": [1, 0, 0],
    },
    # A: (.3 + .75)/3, (.1 + .45)/3, (.2 + .15)/3
    "pressure_focused": {"A": [0.35, 0.183333, 0.116667], "B": [0.2, 0.2, 0.18, 0.2, 0.2, 0.45], "C": [1, 0, 0]},
    "cpu_focused": {"A": [0.72, 0.35, 0.07], "B": [0.073, 0.146, 0.292, 0.511, 0.657, 0.725], "C": [1, 0, 0]},
    "memory_focused": {"A": [0.42, 0.31, 0.2], "B": [0.657, 0.584, 0.365, 0.219, 0.073, 0.725], "C": [1, 0, 0]},
    # A: the roots of the next
    "weighted_rms_positive_deviation": {
        "A": [0.209762, 0, 0.0591608],
        "B": [0.119677, 0.0807112, 0, 0.0613222, 0.139205, 0.235285],
        "C": [ONE_THIRD_OF_TWO, 0, 0],
    },
    # A: .15 * .16 + .35 * .04 + .15 * .04, 0, .35 * .01
    "weighted_mean_square_positive_deviation": {
        "A": [0.044, 0, 0.0035],
        "B": [0.0143226, 0.00651431, 0, 0.00376042, 0.0193781, 0.055359],
        "C": [4 / 9, 0, 0],
    },
    # A: .06 + .07 + .03, 0, .035
    "linear_weighted_positive_deviation": {
        "A": [0.16, 0, 0.035],
        "B": [0.0509167, 0.0324167, 0, 0.02375, 0.0601667, 0.203083],
        "C": [ONE_THIRD_OF_TWO, 0, 0],
    },
    # A: sqrt(.24), 0, .1
    "ideal_point_positive_distance": {
        "A": [0.489898, 0, 0.1],
        "B": [0.308621, 0.20836, 0, 0.158333, 0.358802, 0.571681],
        "C": [1, 0, 0],
    },
    "linear_amplified_ippd_k1": {
        "A": [0.489898, 0, 0.1],
        "B": [0.308621, 0.20836, 0, 0.158333, 0.358802, 0.571681],
        "C": [1, 0, 0],
    },
    "linear_amplified_ippd_k3": {"A": [1, 0, 0.3], "B": [0.925864, 0.62508, 0, 0.475, 1, 1], "C": [1, 0, 0]},
    "linear_amplified_ippd_k5": {"A": [1, 0, 0.5], "B": [1, 1, 0, 0.791667, 1, 1], "C": [1, 0, 0]},
    # A: .5, .1, sqrt(.22) over .5
    "centroid_distance": {
        "A": [1, 0.2, 0.938083],
        "B": [0.885713, 0.658998, 0.283749, 0.547342, 1, 0.933652],
        "C": [1, 0.5, 0.5],
    },
    # A: .1 over sqrt(.24)
    "directional_centroid_distance": {
        "A": [1, 0, 0.204124],
        "B": [0.539849, 0.364469, 0, 0.276961, 0.627626, 1],
        "C": [1, 0, 0],
    },
    # A: sqrt(.30), sqrt(.02), sqrt(.24)
    "variance_minimization": {
        "A": [1, 0.258199, 0.894427],
        "B": [0.886055, 0.660205, 0.289851, 0.549139, 1, 0.971682],
        "C": [1, 0.5, 0.5],
    },
    # A: .4 + .4 + .2 = 1.0, 0, .2
    "directional_variance_minimization": {
        "A": [1, 0, 0.2],
        "B": [0.26378, 0.169291, 0, 0.124672, 0.311024, 1],
        "C": [1, 0, 0],
    },
    # A: mean deviations (.1333, .0667, .0667, .0333), so CPU use; B: (.154167, .0244, .145833, .0233), CPU use, too
    "critical_dimension_focus": {"A": [1, 0, 0], "B": [0, 0, 0, 0.387755, 0.877551, 1], "C": [1, 0, 0]},
    # A: nobody dominates. B: crowding of n2 is 1.75, of n3 2.5, of n4 2.25, so .1 * (1 - .7), 0, .1 * (1 - .9)
    "pareto_front": {"A": [0, 0, 0], "B": [0, 0.03, 0, 0.01, 0, 1], "C": [1, 0, 0]},
}
DIGITS = 2e-6
"""The values above are written with about six digits."""
