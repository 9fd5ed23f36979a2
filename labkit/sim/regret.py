"""How far a run ended from the flattest placement that as many moves could have reached.

Both are judged on the last five minutes: the standard deviation over nodes of CPU usage, averaged over the window. The
reference starts from the initial placement, may move as many VMs as the run did, and knows the load of the window. It
is found by a deterministic greedy search, for every run; for few moves, on request, by HiGHS with a limit on its
search nodes, never on time, so that the answer is the same on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from labkit.errors import InputError
from labkit.model import FloatArray, IntArray

WINDOW_SECONDS: Final = 300.0
SAMPLES: Final = 5
LEAST_GAIN: Final = 1e-12
CANDIDATES: Final = 32
"""Fullest and emptiest nodes that the greedy search looks at; up to this size it looks at all."""
MOST_EXACT_MOVES: Final = 10
SEARCH_NODES: Final = 20_000


@dataclass(frozen=True)
class Regret:
    """A run's distance to the best placement.

    Parameters
    ----------
    cpu_stddev : float
        Of the run, over the window.
    best_cpu_stddev : float
        Of the reference placement.
    moves : int
        Migrations that succeeded in the run: as many were allowed.
    moves_used : int
        Moves of the reference.
    method : str
        ``greedy`` or ``exact``.
    gap : float or None
        Of the exact method: how far its objective (the sum of distances from the mean) may be from the optimum, as a
        ratio; 0 when proven.
    """

    cpu_stddev: float
    best_cpu_stddev: float
    moves: int
    moves_used: int
    method: str
    gap: float | None = None

    @property
    def regret(self) -> float:
        """How much flatter it could have been; negative where the greedy search did worse than the run."""
        return self.cpu_stddev - self.best_cpu_stddev


@dataclass(frozen=True)
class Window:
    """The last minutes of a run: the VMs that run throughout, by row.

    Parameters
    ----------
    demand : FloatArray
        Shape (n_samples, n_vms), cores in use.
    memory_bytes : FloatArray
        Shape (n_vms,), requests.
    start : IntArray
        Shape (n_vms,), node of each VM where it was first placed.
    cores, memory : FloatArray
        Shape (n_nodes,), capacities of the nodes that are ready.
    """

    demand: FloatArray
    memory_bytes: FloatArray
    start: IntArray
    cores: FloatArray
    memory: FloatArray

    def stddev(self, node_of: IntArray) -> float:
        """Return the mean over the window of the standard deviation over nodes."""
        return float(np.mean([row.std() for row in self.usage(node_of)]))

    def stddev_of(self, node_of: IntArray) -> float:
        """Return the same where VMs moved within the window: ``node_of`` has the shape (n_samples, n_vms)."""
        rows = (_by_node(row, places, self.cores) for row, places in zip(self.demand, node_of, strict=True))
        return float(np.mean([row.std() for row in rows]))

    def usage(self, node_of: IntArray) -> FloatArray:
        """Return each node's CPU usage, shape (n_samples, n_nodes)."""
        return np.stack([_by_node(row, node_of, self.cores) for row in self.demand])


def _by_node(demand: FloatArray, node_of: IntArray, cores: FloatArray) -> FloatArray:
    """Return each node's CPU usage at one instant, shape (n_nodes,)."""
    return np.asarray(np.bincount(node_of, weights=demand, minlength=len(cores)) / cores, dtype=np.float64)


def regret_of(window: Window, cpu_stddev: float, moves: int, *, exact: bool = False) -> Regret:
    """Compute the regret of a run.

    Parameters
    ----------
    window : Window
        Its end.
    cpu_stddev : float
        The run's own, over the window.
    moves : int
        Migrations that succeeded.
    exact : bool
        Use HiGHS; for ten moves or fewer.

    Raises
    ------
    InputError
        If the exact answer is wanted for more moves.
    """
    if exact and moves > MOST_EXACT_MOVES:
        raise InputError(f"exact regret: wanted a run of at most {MOST_EXACT_MOVES} migrations, found {moves}")
    best, gap = _exact(window, moves) if exact else (_greedy(window, moves), None)
    used = int((best != window.start).sum())
    return Regret(cpu_stddev, window.stddev(best), moves, used, "exact" if exact else "greedy", gap)


def _greedy(problem: Window, moves: int) -> IntArray:
    """Move one VM after the other, each time the one that lowers the squared distances most."""
    node_of = problem.start.copy()
    nodes = len(problem.cores)
    free = problem.memory - np.bincount(node_of, weights=problem.memory_bytes, minlength=nodes)
    total = problem.demand.sum(axis=1, keepdims=True) / problem.cores.sum()
    distance = problem.usage(node_of) - total
    for _ in range(moves):
        order = np.argsort(distance.mean(axis=0), kind="stable")
        targets, sources = order[:CANDIDATES], order[::-1][:CANDIDATES]
        vms = np.flatnonzero(np.isin(node_of, sources))
        if len(vms) == 0:
            break
        change = _change(problem, distance, node_of, vms, targets)
        change[problem.memory_bytes[vms][:, np.newaxis] > free[targets]] = np.inf
        change[node_of[vms][:, np.newaxis] == targets] = np.inf
        row, column = divmod(int(np.argmin(change)), len(targets))
        if not change[row, column] < -LEAST_GAIN:
            break
        vm, target, source = int(vms[row]), int(targets[column]), int(node_of[vms[row]])
        distance[:, source] -= problem.demand[:, vm] / problem.cores[source]
        distance[:, target] += problem.demand[:, vm] / problem.cores[target]
        free[source] += problem.memory_bytes[vm]
        free[target] -= problem.memory_bytes[vm]
        node_of[vm] = target
    return node_of


def _change(problem: Window, distance: FloatArray, node_of: IntArray, vms: IntArray, targets: IntArray) -> FloatArray:
    """Return what each move does to the mean sum of squared distances, shape (n_vms, n_targets)."""
    moved, source = problem.demand[:, vms], node_of[vms]
    off = moved / problem.cores[source]
    change = (off * off - 2.0 * off * distance[:, source]).mean(axis=0)[:, np.newaxis]
    on = (moved * moved).mean(axis=0)[:, np.newaxis] / np.square(problem.cores[targets])
    cross = 2.0 * (moved.T @ distance[:, targets]) / len(moved) / problem.cores[targets]
    return np.asarray(change + on + cross, dtype=np.float64)


def _exact(problem: Window, moves: int) -> tuple[IntArray, float]:
    """Minimise the sum of the nodes' distances from the mean load of the window, by mixed-integer programming."""
    # Imported here: most runs never ask.
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    demand = problem.demand.mean(axis=0)
    vms, nodes = len(demand), len(problem.cores)
    mean = demand.sum() / problem.cores.sum()
    placed = vms * nodes
    vm, node = np.divmod(np.arange(placed), nodes)
    load, slack = demand[vm] / problem.cores[node], placed + np.arange(nodes)
    ones, every = np.ones(placed), np.arange(placed)

    def rows(row: IntArray, column: IntArray, value: FloatArray, count: int) -> coo_array:
        return coo_array((value, (row, column)), shape=(count, placed + nodes))

    both = np.concatenate([node, np.arange(nodes)]), np.concatenate([every, slack])
    constraints = [
        LinearConstraint(rows(vm, every, ones, vms), 1, 1),
        LinearConstraint(rows(node, every, problem.memory_bytes[vm], nodes), 0, problem.memory),
        LinearConstraint(rows(*both, np.concatenate([load, -np.ones(nodes)]), nodes), -np.inf, mean),
        LinearConstraint(rows(*both, np.concatenate([load, np.ones(nodes)]), nodes), mean, np.inf),
    ]
    stays = (node == problem.start[vm]).astype(np.float64)
    constraints.append(LinearConstraint(rows(np.zeros_like(every), every, stays, 1), vms - moves, vms))
    answer = milp(
        np.concatenate([np.zeros(placed), np.ones(nodes)]),
        constraints=constraints,
        integrality=np.concatenate([np.ones(placed), np.zeros(nodes)]),
        bounds=Bounds(0, np.concatenate([np.ones(placed), np.full(nodes, np.inf)])),
        options={"node_limit": SEARCH_NODES},
    )
    if answer.x is None:
        raise InputError(f"exact regret: HiGHS found no placement: {answer.message}")
    chosen = answer.x[:placed].reshape(vms, nodes).argmax(axis=1)
    return chosen.astype(np.int64), float(answer.mip_gap or 0.0)
