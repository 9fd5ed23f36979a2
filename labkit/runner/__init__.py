"""From an experiment to finished run folders.

``matrix`` decides what is still to do and keeps the experiment's folder; ``twin`` plays runs of the twin in bulk
through Dask; ``live`` executes one notebook per live run through papermill; ``play`` is one run on any backend.
"""

from labkit.runner.conclude import conclude
from labkit.runner.live import save, watch
from labkit.runner.matrix import Outcome, Plan, carry_out, plan
from labkit.runner.play import play, record_of
from labkit.runner.progress import Progress, Silent

__all__ = [
    "Outcome",
    "Plan",
    "Progress",
    "Silent",
    "carry_out",
    "conclude",
    "plan",
    "play",
    "record_of",
    "save",
    "watch",
]
