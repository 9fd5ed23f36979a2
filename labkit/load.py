"""Load: what each VM demands at an instant of lab time, and what that makes of the nodes.

A VM's demand is a pure function of its curve, its seed and lab time, so the live exporter and the twin see the
same load without talking to each other. Nothing here keeps a state between two instants.

Public names, stable for exporter, controllers and twin::

    parse_curve(mapping) -> Curve                  curve_mapping(curve) -> dict
    curve_json(curve, seed) -> str                 parse_curve_json(text) -> (Curve, seed)
    constant_curve(cpu, memory) -> Curve
    LoadTable(curves, seeds).at(lab_seconds) -> (cpu_utilization, memory_utilization)     each (n_vms,)
    LoadTable(curves, seeds).block(lab_seconds) -> the same, each (n_times, n_vms)
    step_start(lab_seconds) -> start of the load step that contains it
    node_load(...) -> NodeLoad                     pressure(demand_ratio, model=...)

A curve gives each of CPU and memory a shape: a number (constant) or a mapping with ``kind``. Ratios are shares of
the VM's own cores and bytes; times are lab seconds, in files also durations such as ``5m``.

=============  ==========================================================  =====================================
kind           parameters (default)                                        value at lab time t
=============  ==========================================================  =====================================
constant       value                                                       value
step           start, end, at                                              start before ``at``, then end
ramp           start, end, at, duration                                    linear from start to end
diurnal        low, high, period (24h), peak (period / 2)                  cosine between low and high
flash_crowd    base, peak, at, rise (1m), hold (5m), decay (5m)            linear rise, hold, exponential fall
random_walk    mean, amplitude, period (10m)                               seeded value noise of three octaves
tasks          base (0), size, rate_per_hour, duration (5m)                base + size × tasks running
trace          samples, interval (5m), repeat (false)                      the sample of the interval
=============  ==========================================================  =====================================

``surges`` add to both: ``{at, duration, cpu, memory}``. The sum is clipped to [0, 1], rounded to four decimals
and constant within each step of 15 lab seconds. Before lab time 0 it has the value of lab time 0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from labkit.errors import InputError
from labkit.model import FloatArray, IntArray
from labkit.names import LOAD_STEP_SECONDS
from labkit.units import parse_duration

__all__ = [
    "KINDS",
    "Curve",
    "LoadTable",
    "NodeLoad",
    "Shape",
    "Surge",
    "constant_curve",
    "curve_json",
    "curve_mapping",
    "node_load",
    "parse_curve",
    "parse_curve_json",
    "pressure",
    "step_start",
]

PressureModel = Literal["monotone", "seed"]
Params = Mapping[str, FloatArray]
Seeds = NDArray[np.uint64]

OCTAVES: Final = 3
"""Octaves of ``random_walk``: each has half the period and half the amplitude of the one before."""
MAX_TASKS_PER_STEP: Final = 8.0
"""Largest mean number of task arrivals within one load step (1,920 an hour)."""
MAX_SAMPLES: Final = 20_000
"""Largest trace within one curve; its JSON must fit into an annotation (256 KiB for all of an object)."""


@dataclass(frozen=True)
class _Field:
    """One parameter of a shape: what it measures and what holds without it."""

    unit: Literal["ratio", "seconds", "rate", "samples", "flag"]
    default: float | None = None
    positive: bool = False


KINDS: Final[Mapping[str, Mapping[str, _Field]]] = {
    "constant": {"value": _Field("ratio")},
    "step": {"start": _Field("ratio"), "end": _Field("ratio"), "at": _Field("seconds")},
    "ramp": {
        "start": _Field("ratio"),
        "end": _Field("ratio"),
        "at": _Field("seconds"),
        "duration": _Field("seconds", positive=True),
    },
    "diurnal": {
        "low": _Field("ratio"),
        "high": _Field("ratio"),
        "period": _Field("seconds", 86400.0, positive=True),
        "peak": _Field("seconds", math.nan),
    },
    "flash_crowd": {
        "base": _Field("ratio"),
        "peak": _Field("ratio"),
        "at": _Field("seconds"),
        "rise": _Field("seconds", 60.0, positive=True),
        "hold": _Field("seconds", 300.0),
        "decay": _Field("seconds", 300.0, positive=True),
    },
    "random_walk": {
        "mean": _Field("ratio"),
        "amplitude": _Field("ratio"),
        "period": _Field("seconds", 600.0, positive=True),
    },
    "tasks": {
        "base": _Field("ratio", 0.0),
        "size": _Field("ratio"),
        "rate_per_hour": _Field("rate"),
        "duration": _Field("seconds", 300.0, positive=True),
    },
    "trace": {
        "samples": _Field("samples"),
        "interval": _Field("seconds", 300.0, positive=True),
        "repeat": _Field("flag", 0.0),
    },
}
"""The parameters of each kind of shape."""


@dataclass(frozen=True)
class Shape:
    """How one of CPU and memory goes over time.

    Parameters
    ----------
    kind : str
        A key of :data:`KINDS`.
    parameters : tuple of (str, float)
        In the order of :data:`KINDS`; ratios in [0, 1], times in lab seconds.
    samples : tuple of float
        Of a trace: ratios in [0, 1]; empty otherwise.
    """

    kind: str
    parameters: tuple[tuple[str, float], ...]
    samples: tuple[float, ...] = ()


@dataclass(frozen=True)
class Surge:
    """Load added for a while: ``cpu`` and ``memory`` ratios from ``at_seconds`` on."""

    at_seconds: float
    duration_seconds: float
    cpu: float = 0.0
    memory: float = 0.0


@dataclass(frozen=True)
class Curve:
    """The demand of one VM over lab time, as shares of its own cores and bytes."""

    cpu: Shape
    memory: Shape
    surges: tuple[Surge, ...] = ()


# --- reading and writing -----------------------------------------------------------------------------


def constant_curve(cpu: float, memory: float) -> Curve:
    """Return the curve of a VM whose utilisation does not change (``spec.utilization``)."""
    return parse_curve({"cpu": cpu, "memory": memory})


def parse_curve(mapping: Mapping[str, Any], *, where: str = "load") -> Curve:
    """Read a curve as a scenario or the pod annotation writes it.

    Parameters
    ----------
    mapping : Mapping
        ``cpu`` and ``memory``: a ratio or a mapping with ``kind``; ``surges``: optional list.
    where : str
        Name of the field, for error texts.

    Raises
    ------
    InputError
        If a field is unknown, missing or outside its range; the text names the field.
    """
    if not isinstance(mapping, Mapping):
        raise InputError(f"{where}: wanted a mapping with cpu and memory, found {mapping!r}")
    _refuse_unknown(mapping, {"cpu", "memory", "surges"}, where)
    for name in ("cpu", "memory"):
        if name not in mapping:
            raise InputError(f"{where}.{name}: wanted a ratio or a mapping with kind, found nothing")
    surges = mapping.get("surges", [])
    if not isinstance(surges, Sequence) or isinstance(surges, str):
        raise InputError(f"{where}.surges: wanted a list, found {surges!r}")
    return Curve(
        _parse_shape(mapping["cpu"], f"{where}.cpu"),
        _parse_shape(mapping["memory"], f"{where}.memory"),
        tuple(_parse_surge(surge, f"{where}.surges[{index}]") for index, surge in enumerate(surges)),
    )


def _parse_shape(value: Any, where: str) -> Shape:
    if not isinstance(value, Mapping):
        return Shape("constant", (("value", _number(value, "ratio", where)),))
    kind = str(value.get("kind"))
    if kind not in KINDS:
        raise InputError(f"{where}.kind: wanted one of {', '.join(KINDS)}, found {kind!r}")
    fields = KINDS[kind]
    _refuse_unknown(value, {"kind", *fields}, where)
    parameters: list[tuple[str, float]] = []
    samples: tuple[float, ...] = ()
    for name, field in fields.items():
        place = f"{where}.{name}"
        if name not in value:
            if field.default is None:
                raise InputError(f"{place}: wanted a value for kind {kind}, found nothing")
            parameters.append((name, field.default))
        elif field.unit == "samples":
            samples = _parse_samples(value[name], place)
        else:
            number = _number(value[name], field.unit, place)
            if field.positive and number <= 0:
                raise InputError(f"{place}: wanted more than 0, found {value[name]!r}")
            parameters.append((name, number))
    if kind == "diurnal":
        given = dict(parameters)
        if math.isnan(given["peak"]):
            given["peak"] = given["period"] / 2
        parameters = list(given.items())
    if kind == "trace":
        parameters = [(name, number) for name, number in parameters if name != "samples"]
    if kind == "tasks" and dict(parameters)["rate_per_hour"] * LOAD_STEP_SECONDS / 3600 > MAX_TASKS_PER_STEP:
        most = MAX_TASKS_PER_STEP * 3600 / LOAD_STEP_SECONDS
        raise InputError(f"{where}.rate_per_hour: wanted at most {most:g}, found {value['rate_per_hour']!r}")
    return Shape(kind, tuple(parameters), samples)


def _parse_samples(value: Any, where: str) -> tuple[float, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise InputError(f"{where}: wanted a list of ratios, found {value!r}")
    if len(value) > MAX_SAMPLES:
        raise InputError(f"{where}: wanted at most {MAX_SAMPLES} samples, found {len(value)}")
    return tuple(_number(sample, "ratio", f"{where}[{index}]") for index, sample in enumerate(value))


def _parse_surge(value: Any, where: str) -> Surge:
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: wanted a mapping with at and duration, found {value!r}")
    _refuse_unknown(value, {"at", "duration", "cpu", "memory"}, where)
    for name in ("at", "duration"):
        if name not in value:
            raise InputError(f"{where}.{name}: wanted a duration, found nothing")
    return Surge(
        _number(value["at"], "seconds", f"{where}.at"),
        _number(value["duration"], "seconds", f"{where}.duration"),
        _number(value.get("cpu", 0.0), "change", f"{where}.cpu"),
        _number(value.get("memory", 0.0), "change", f"{where}.memory"),
    )


def _refuse_unknown(mapping: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(str(key) for key in mapping if key not in known)
    if unknown:
        raise InputError(f"{where}.{unknown[0]}: unknown field, wanted one of {', '.join(sorted(known))}")


def _number(value: Any, unit: str, where: str) -> float:
    """Read one number; ``change`` is a ratio that may be negative."""
    if unit == "seconds":
        try:
            return parse_duration(value)
        except InputError as exc:
            raise InputError(f"{where}: {exc}") from exc
    if unit == "flag":
        if isinstance(value, bool) or value in (0, 1):
            return float(value)
        raise InputError(f"{where}: wanted true or false, found {value!r}")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{where}: wanted a number, found {value!r}")
    lowest, highest = {"ratio": (0.0, 1.0), "change": (-1.0, 1.0), "rate": (0.0, math.inf)}[unit]
    if not lowest <= value <= highest:
        wanted = f"within [{lowest:g}, {highest:g}]" if highest < math.inf else "0 or more"
        raise InputError(f"{where}: wanted a number {wanted}, found {value!r}")
    return float(value)


def curve_mapping(curve: Curve) -> dict[str, Any]:
    """Return the mapping that :func:`parse_curve` reads back to an equal curve."""
    mapping: dict[str, Any] = {"cpu": _shape_value(curve.cpu), "memory": _shape_value(curve.memory)}
    if curve.surges:
        mapping["surges"] = [
            {"at": surge.at_seconds, "duration": surge.duration_seconds, "cpu": surge.cpu, "memory": surge.memory}
            for surge in curve.surges
        ]
    return mapping


def _shape_value(shape: Shape) -> float | dict[str, Any]:
    if shape.kind == "constant":
        return shape.parameters[0][1]
    value: dict[str, Any] = {"kind": shape.kind, **dict(shape.parameters)}
    if shape.kind == "trace":
        value["samples"] = list(shape.samples)
        value["repeat"] = bool(value["repeat"])
    return value


def curve_json(curve: Curve, seed: int) -> str:
    """Write a curve and its seed as the pod annotation ``names.LOAD_ANNOTATION`` carries them."""
    return json.dumps({"curve": curve_mapping(curve), "seed": seed}, separators=(",", ":"))


def parse_curve_json(text: str) -> tuple[Curve, int]:
    """Read the pod annotation ``names.LOAD_ANNOTATION``.

    Raises
    ------
    InputError
        If the text is no JSON object with ``curve`` and ``seed``, or the curve is wrong.
    """
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise InputError(f"wanted JSON with curve and seed, found {text[:60]!r}") from exc
    if not isinstance(value, dict) or set(value) != {"curve", "seed"}:
        raise InputError(f"wanted JSON with curve and seed, found {text[:60]!r}")
    seed = value["seed"]
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise InputError(f"seed: wanted a whole number from 0 to 2^63 - 1, found {seed!r}")
    return parse_curve(value["curve"], where="curve"), seed


# --- evaluation --------------------------------------------------------------------------------------


def step_start(lab_seconds: float) -> float:
    """Return the start of the load step, in lab seconds, that contains an instant; 0 before lab time 0."""
    return max(0.0, math.floor(lab_seconds / LOAD_STEP_SECONDS) * LOAD_STEP_SECONDS)


class LoadTable:
    """The curves of many VMs, evaluated together.

    Parameters
    ----------
    curves : sequence of Curve
        One per VM.
    seeds : sequence of int
        One per VM, in [0, 2^63); VMs with equal curves and seeds have equal load.

    Notes
    -----
    Building costs about 10 µs per VM, evaluating 0.03 µs per VM and instant. Values do not depend on the order of
    calls, on the other VMs of the table, nor on whether :meth:`at` or :meth:`block` computed them.
    """

    def __init__(self, curves: Sequence[Curve], seeds: Sequence[int]) -> None:
        if len(curves) != len(seeds):
            raise InputError(f"wanted one seed per curve, found {len(seeds)} for {len(curves)}")
        hashed = _mix(np.asarray(seeds, dtype=np.uint64))
        self._size = len(curves)
        self._cpu = _Dimension([curve.cpu for curve in curves], hashed, 0)
        self._memory = _Dimension([curve.memory for curve in curves], hashed, 1)
        rows = [(row, surge) for row, curve in enumerate(curves) for surge in curve.surges]
        self._surge_rows = np.array([row for row, _ in rows], dtype=np.int64)
        self._surges = np.array(
            [
                (s.at_seconds, s.at_seconds + s.duration_seconds, s.cpu, s.memory) for _, s in rows
            ],
            dtype=np.float64,
        ).reshape(len(rows), 4)  # fmt: skip

    def __len__(self) -> int:
        return self._size

    def at(self, lab_seconds: float) -> tuple[FloatArray, FloatArray]:
        """Return CPU and memory utilisation of every VM, shape (n_vms,), ratios in [0, 1]."""
        cpu, memory = self.block(np.array([lab_seconds]))
        return cpu[0], memory[0]

    def block(self, lab_seconds: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return utilisation at several instants.

        Parameters
        ----------
        lab_seconds : FloatArray
            Shape (n_times,), any order; consecutive steps are quickest.

        Returns
        -------
        cpu_utilization, memory_utilization : FloatArray
            Shape (n_times, n_vms), ratios in [0, 1], rounded to 4 decimals.
        """
        since_start = np.maximum(np.asarray(lab_seconds, dtype=np.float64), 0.0)
        steps: IntArray = np.floor(since_start / LOAD_STEP_SECONDS).astype(np.int64)
        cpu, memory = self._cpu.evaluate(steps), self._memory.evaluate(steps)
        if len(self._surge_rows):
            self._add_surges(_seconds(steps)[:, 0], cpu, memory)
        return _rounded(cpu), _rounded(memory)

    def _add_surges(self, times: FloatArray, cpu: FloatArray, memory: FloatArray) -> None:
        start, end, more_cpu, more_memory = self._surges.T
        for row, time in enumerate(times):
            active = (start <= time) & (time < end)
            if active.any():
                np.add.at(cpu[row], self._surge_rows[active], more_cpu[active])
                np.add.at(memory[row], self._surge_rows[active], more_memory[active])


def _rounded(values: FloatArray) -> FloatArray:
    """Clip to [0, 1] and round to four decimals, in place."""
    np.clip(values, 0.0, 1.0, out=values)
    np.multiply(values, 1e4, out=values)
    np.rint(values, out=values)
    # Division, not multiplication by 1e-4: the result is the double nearest to the decimal number.
    return np.divide(values, 1e4, out=values)


class _Dimension:
    """The shapes of all VMs in one dimension, grouped by kind."""

    def __init__(self, shapes: Sequence[Shape], seeds: Seeds, lane: int) -> None:
        self._size = len(shapes)
        rows: dict[str, list[int]] = {}
        for row, shape in enumerate(shapes):
            rows.setdefault(shape.kind, []).append(row)
        self._groups: list[tuple[slice | IntArray, Evaluator]] = []
        for kind, members in rows.items():
            index = np.array(members, dtype=np.int64)
            chosen = [shapes[row] for row in members]
            names = [name for name, _ in chosen[0].parameters]
            table = np.array([[number for _, number in shape.parameters] for shape in chosen], dtype=np.float64)
            params = {name: np.ascontiguousarray(table[:, column]) for column, name in enumerate(names)}
            contiguous = members[-1] - members[0] + 1 == len(members)
            where: slice | IntArray = slice(members[0], members[-1] + 1) if contiguous else index
            self._groups.append((where, _EVALUATORS[kind](params, seeds[index], lane, chosen)))

    def evaluate(self, steps: IntArray) -> FloatArray:
        """Return unrounded values, shape (n_times, n_vms)."""
        if len(self._groups) == 1:
            values = self._groups[0][1](steps)
            return np.array(np.broadcast_to(values, (len(steps), self._size)))
        out = np.empty((len(steps), self._size))
        for where, evaluator in self._groups:
            out[:, where] = evaluator(steps)
        return out


Evaluator = Callable[[IntArray], FloatArray]
"""From step numbers, shape (n_times,), to values that broadcast to (n_times, n_vms)."""


def _seconds(steps: IntArray) -> FloatArray:
    return steps[:, np.newaxis].astype(np.float64) * LOAD_STEP_SECONDS


def _constant(params: Params, seeds: Seeds, lane: int, shapes: Sequence[Shape]) -> Evaluator:
    value = params["value"][np.newaxis, :]
    return lambda steps: value


def _step(params: Params, seeds: Seeds, lane: int, shapes: Sequence[Shape]) -> Evaluator:
    return lambda steps: np.where(_seconds(steps) < params["at"], params["start"], params["end"])


def _ramp(params: Params, seeds: Seeds, lane: int, shapes: Sequence[Shape]) -> Evaluator:
    slope = (params["end"] - params["start"]) / params["duration"]

    def evaluate(steps: IntArray) -> FloatArray:
        since = np.clip(_seconds(steps) - params["at"], 0.0, params["duration"])
        return params["start"] + slope * since

    return evaluate


def _diurnal(params: Params, seeds: Seeds, lane: int, shapes: Sequence[Shape]) -> Evaluator:
    middle, half = (params["low"] + params["high"]) / 2, (params["high"] - params["low"]) / 2
    speed = 2 * np.pi / params["period"]
    return lambda steps: middle + half * np.cos((_seconds(steps) - params["peak"]) * speed)


def _flash_crowd(params: Params, seeds: Seeds, lane: int, shapes: Sequence[Shape]) -> Evaluator:
    height = params["peak"] - params["base"]
    hold_end = params["rise"] + params["hold"]

    def evaluate(steps: IntArray) -> FloatArray:
        since = _seconds(steps) - params["at"]
        share = np.clip(since / params["rise"], 0.0, 1.0)
        share *= np.exp(-np.maximum(since - hold_end, 0.0) / params["decay"])
        return params["base"] + height * share

    return evaluate


def _random_walk(params: Params, seeds: Seeds, lane: int, shapes: Sequence[Shape]) -> Evaluator:
    """Value noise: hashed values at knots one period apart, joined by a smooth curve, in three octaves."""
    weights = 0.5 ** np.arange(OCTAVES)
    weights = weights / weights.sum()
    lanes = [_mix(seeds ^ np.uint64(1 + lane + 2 * octave)) for octave in range(OCTAVES)]
    same = bool((params["period"] == params["period"][0]).all())
    periods = params["period"][:1] if same else params["period"]

    def evaluate(steps: IntArray) -> FloatArray:
        total = np.empty((len(steps), len(seeds)))
        total[:] = params["mean"]
        for octave in range(OCTAVES):
            position = _seconds(steps) * (2.0**octave / periods)
            knot = np.floor(position)
            share = position - knot
            share = share * share * (3.0 - 2.0 * share)
            scale = weights[octave] * params["amplitude"]
            if same:
                _add_noise(total, knot[:, 0], share[:, 0], lanes[octave], scale)
            else:
                left, right = scale * _noise(lanes[octave], knot), scale * _noise(lanes[octave], knot + 1.0)
                total += left * (1.0 - share) + right * share
        return total

    return evaluate


def _add_noise(total: FloatArray, knot: FloatArray, share: FloatArray, lane: Seeds, scale: FloatArray) -> None:
    """Add one octave whose knots are common to all VMs: hash each knot once, not once per instant."""
    first, last = int(knot.min()), int(knot.max())
    if last - first > 4 * len(knot):
        values = {int(k): scale * _noise(lane, np.float64(k)) for k in np.unique(np.concatenate([knot, knot + 1]))}
    else:
        values = {k: scale * _noise(lane, np.float64(k)) for k in range(first, last + 2)}
    for row, (k, weight) in enumerate(zip(knot.astype(np.int64).tolist(), share.tolist(), strict=True)):
        total[row] += values[k] * (1.0 - weight) + values[k + 1] * weight


def _tasks(params: Params, seeds: Seeds, lane: int, shapes: Sequence[Shape]) -> Evaluator:
    """Poisson arrivals per step; each task lasts its duration, so a window sum counts those running.

    The arrivals hash does not know the dimension: a task that loads CPU and memory loads both at once.
    """
    mean = params["rate_per_hour"] * LOAD_STEP_SECONDS / 3600.0
    lengths = np.maximum(np.ceil(params["duration"] / LOAD_STEP_SECONDS), 1.0).astype(np.int64)
    longest = int(lengths.max())
    arrivals_lane = _mix(seeds ^ np.uint64(0x7A5C))
    cumulative = _poisson_cumulative(mean)

    def evaluate(steps: IntArray) -> FloatArray:
        out = np.empty((len(steps), len(seeds)))
        for rows in _runs(steps):
            first, last = int(steps[rows[0]]), int(steps[rows[-1]])
            # No task has arrived before lab time 0 minus its duration: the system starts as if it had always run.
            window = np.arange(first - longest + 1, last + 1)
            draws = _uniform(arrivals_lane, window[:, np.newaxis].astype(np.float64))
            counts = np.zeros(draws.shape)
            for bound in cumulative:
                counts += draws >= bound
            total = np.vstack([np.zeros(len(seeds)), np.cumsum(counts, axis=0)])
            ends = np.arange(longest, longest + len(rows))[:, np.newaxis]
            columns = np.arange(len(seeds))
            running = total[ends, columns] - total[ends - lengths, columns]
            out[rows] = params["base"] + params["size"] * running
        return out

    return evaluate


def _runs(steps: IntArray) -> list[IntArray]:
    """Cut row numbers into runs of consecutive steps."""
    breaks = np.flatnonzero(np.diff(steps) != 1) + 1
    return [run.astype(np.int64) for run in np.split(np.arange(len(steps)), breaks) if len(run)]


def _poisson_cumulative(mean: FloatArray) -> list[FloatArray]:
    """Return P(X <= k) for k = 0, 1, … until every tail is below 1e-12."""
    term = np.exp(-mean)
    total = term.copy()
    bounds = [total.copy()]
    count = 0
    while (1.0 - total > 1e-12).any():
        count += 1
        term = term * mean / count
        total = total + term
        bounds.append(total.copy())
        if count > 100:
            break
    return bounds


def _trace(params: Params, seeds: Seeds, lane: int, shapes: Sequence[Shape]) -> Evaluator:
    lengths = np.array([len(shape.samples) for shape in shapes], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    samples = np.array([sample for shape in shapes for sample in shape.samples], dtype=np.float64)
    repeat = params["repeat"] > 0

    def evaluate(steps: IntArray) -> FloatArray:
        position = np.floor(_seconds(steps) / params["interval"]).astype(np.int64)
        inside = np.where(repeat, position % lengths, np.clip(position, 0, lengths - 1))
        taken: FloatArray = samples[offsets + inside]
        return taken

    return evaluate


_EVALUATORS: Final[Mapping[str, Callable[[Params, Seeds, int, Sequence[Shape]], Evaluator]]] = {
    "constant": _constant,
    "step": _step,
    "ramp": _ramp,
    "diurnal": _diurnal,
    "flash_crowd": _flash_crowd,
    "random_walk": _random_walk,
    "tasks": _tasks,
    "trace": _trace,
}


# --- addressable randomness --------------------------------------------------------------------------


def _mix(values: Seeds) -> Seeds:
    """Scramble 64-bit words; whole-number arithmetic only, hence equal on every machine.

    References
    ----------
    The finaliser of SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
    OOPSLA 2014, DOI 10.1145/2660193.2660195.
    """
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


def _uniform(lane: Seeds, position: FloatArray | np.float64) -> FloatArray:
    """Return numbers in [0, 1) for each VM's lane at whole-numbered positions."""
    words = np.asarray(position).astype(np.int64).astype(np.uint64)
    with np.errstate(over="ignore"):
        hashed = _mix(lane + words * np.uint64(0xD1342543DE82EF95))
    uniform: FloatArray = (hashed >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniform


def _noise(lane: Seeds, position: FloatArray | np.float64) -> FloatArray:
    """Return numbers in [-1, 1) for each VM's lane at whole-numbered positions."""
    return 2.0 * _uniform(lane, position) - 1.0


# --- nodes -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NodeLoad:
    """What the VMs make of the nodes at one instant; each array has shape (n_nodes,).

    Parameters
    ----------
    cpu_demand, memory_demand : FloatArray
        Demand over capacity; above 1 where a node is asked for more than it has.
    cpu_usage, memory_usage : FloatArray
        What the node can give: the demand, at most 1.
    cpu_pressure, memory_pressure : FloatArray
        Share of time stalled, in [0, 1] (:func:`pressure`).
    """

    cpu_demand: FloatArray
    memory_demand: FloatArray
    cpu_usage: FloatArray
    cpu_pressure: FloatArray
    memory_usage: FloatArray
    memory_pressure: FloatArray

    @property
    def load_ratio(self) -> FloatArray:
        """The four load ratios, shape (n_nodes, 4), columns in the order of ``names.DIMENSIONS``."""
        return np.column_stack([self.cpu_usage, self.cpu_pressure, self.memory_usage, self.memory_pressure])


def node_load(
    cpu_utilization: FloatArray,
    memory_utilization: FloatArray,
    *,
    cores: FloatArray,
    memory_bytes: FloatArray,
    node_index: IntArray,
    node_cores: FloatArray,
    node_memory_bytes: FloatArray,
    pressure_model: PressureModel = "monotone",
) -> NodeLoad:
    """Sum the VMs of each node and derive usage and pressure.

    Parameters
    ----------
    cpu_utilization, memory_utilization : FloatArray
        Shape (n_vms,), ratios of the VM's own size, from :class:`LoadTable`.
    cores, memory_bytes : FloatArray
        Shape (n_vms,), sizes of the VMs.
    node_index : IntArray
        Shape (n_vms,), the node on which the VM *runs*, -1 for none. A VM under migration runs on its source until
        the switchover: its target has neither its CPU nor its memory before.
    node_cores, node_memory_bytes : FloatArray
        Shape (n_nodes,), capacities; a node without capacity has demand 0.
    pressure_model : str
        See :func:`pressure`.
    """
    cpu = _sum_by_node(cores * cpu_utilization, node_index, node_cores)
    memory = _sum_by_node(memory_bytes * memory_utilization, node_index, node_memory_bytes)
    return NodeLoad(
        cpu_demand=cpu,
        memory_demand=memory,
        cpu_usage=np.minimum(cpu, 1.0),
        cpu_pressure=pressure(cpu, model=pressure_model),
        memory_usage=np.minimum(memory, 1.0),
        memory_pressure=pressure(np.minimum(memory, 1.0) if pressure_model == "seed" else memory, model=pressure_model),
    )


def _sum_by_node(amount: FloatArray, node_index: IntArray, capacity: FloatArray) -> FloatArray:
    sums = np.bincount(node_index + 1, weights=amount, minlength=len(capacity) + 1)[1:]
    return np.divide(sums, capacity, out=np.zeros(len(capacity)), where=capacity > 0)


def pressure(demand_ratio: FloatArray, *, model: PressureModel = "monotone") -> FloatArray:
    """Return the share of time that work stalls (PSI) at a demand.

    Parameters
    ----------
    demand_ratio : FloatArray
        Demand over capacity, 0 or more.
    model : {"monotone", "seed"}
        ``monotone`` never falls as demand rises. ``seed`` has the drop at 70 % of the simulator that the
        quickstart comes from, to compare with it.

    Returns
    -------
    FloatArray
        In [0, 1], the input's shape.

    Notes
    -----
    Below 0.7 pressure is 7 % of the demand; up to 0.9 it rises linearly to 0.2, then quadratically to 0.8 at 1, and
    beyond by half of the excess. The monotone model starts the middle part where the first ends (0.049), the
    seed's at 0.

    References
    ----------
    Defined here; the seed's curve as described for ``prometheus_exporter.py`` of descheduler-sim.
    """
    demand = np.asarray(demand_ratio, dtype=np.float64)
    knee = 0.049 if model == "monotone" else 0.0
    middle = knee + (demand - 0.7) * ((0.2 - knee) / 0.2)
    high = 0.2 + np.square((demand - 0.9) / 0.1) * 0.6
    beyond = np.minimum(1.0, 0.8 + 0.5 * (demand - 1.0))
    stalled = np.where(demand < 0.9, middle, np.where(demand <= 1.0, high, beyond))
    return np.where(demand < 0.7, 0.07 * demand, stalled)
