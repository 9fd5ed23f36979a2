"""Experiment files: a question and a matrix, checked, and expanded into runs in a fixed order.

A file is data. Reading it gives an :class:`Experiment` or an error with file, line and field; :func:`expand` gives
the runs with readable, unique ids. Nothing here knows what an algorithm or a scenario is: the caller passes the
names that exist.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, cast

import yaml

from labkit.analysis import metrics
from labkit.descheduling import parse_thresholds
from labkit.errors import ExperimentError, InputError
from labkit.names import MAX_TEMPO
from labkit.schema import Draft202012Validator, ValidationError
from labkit.units import parse_duration

T = TypeVar("T")
Backend = Literal["sim", "local", "kind"]
BACKENDS: Final = ("sim", "local", "kind")
BASELINES: Final = ("none", "random", "oracle")
"""Not algorithms of the descheduler: no descheduling; random choices; a planner that knows the future."""
SIM_ONLY: Final = ("random", "oracle")
ALL: Final = "all"
"""In ``matrix.algorithm``: every algorithm of the catalogue."""
DEFAULT_BASELINE: Final = "linear_amplified_ippd_k3"
"""Production's default."""
DEFAULT_METRICS: Final = (
    "hotspot_seconds", "migrations", "time_to_settle_seconds", "cpu_stddev_mean", "ping_pong_migrations",
)  # fmt: skip

_DURATION: Final = {"type": ["string", "number"]}
_COUNT: Final = {"type": "integer", "minimum": 1}
POLICY_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "thresholds": {"type": "string"},
        "evictions_per_node": _COUNT,
        "evictions_total": _COUNT,
        "descheduling_interval": _DURATION,
        "evaluation_interval": _DURATION,
        "migrations_per_cluster": _COUNT,
        "migrations_per_node": _COUNT,
        "soft_taints": {"type": "boolean"},
        "migration_cooldown": _DURATION,
    },
}
SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["question", "backend", "matrix", "duration"],
    "properties": {
        "question": {"type": "string", "minLength": 1},
        "backend": {"enum": list(BACKENDS)},
        "duration": _DURATION,
        "tempo": {"type": "integer", "minimum": 1, "maximum": MAX_TEMPO},
        "repeats": _COUNT,
        "baseline": {"type": "string"},
        "metrics": {"type": "array", "minItems": 1, "items": {"type": "string"}},
        "notebook": {"type": "string"},
        "matrix": {
            "type": "object",
            "additionalProperties": False,
            "required": ["algorithm", "scenario", "seed"],
            "properties": {
                "algorithm": {"type": "array", "minItems": 1, "items": {"type": "string"}},
                "scenario": {"type": "array", "minItems": 1, "items": {"type": "string"}},
                "seed": {
                    "oneOf": [
                        {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}},
                        {"type": "string", "pattern": r"^\d+\.\.\d+$"},
                    ]
                },
                "policy": {"type": "array", "minItems": 1, "items": POLICY_SCHEMA},
                "nodes": {"type": "array", "minItems": 1, "items": _COUNT},
            },
        },
    },
}
"""JSON Schema of an experiment file; :func:`load` checks what a schema cannot say."""


@dataclass(frozen=True)
class RunSpec:
    """One run of a matrix: everything that decides its outcome, apart from the code.

    Parameters
    ----------
    run_id : str
        Readable and unique within the experiment.
    backend, scenario, algorithm, seed : str, str, str, int
        ``scenario`` is a name or a path; ``algorithm`` is what the descheduler goes by.
    label : str
        The algorithm's name in tables and figures; differs where one is entered twice.
    policy : dict
        Differences from the production policy.
    policy_name : str
        Its short name, empty for the production policy.
    tempo : int
        Lab seconds per wall second on a live backend; on the twin, of the live run that it imitates.
    duration_seconds : float
        Lab seconds.
    nodes : int or None
        Size to which the scenario is scaled; None for its own.
    repeat : int
        1, 2, … on live backends, which never give the same run twice.
    """

    run_id: str
    backend: str
    scenario: str
    algorithm: str
    seed: int
    label: str
    policy: dict[str, Any]
    policy_name: str
    tempo: int
    duration_seconds: float
    nodes: int | None = None
    repeat: int = 1

    def key(self, context: Mapping[str, Any]) -> str:
        """Return a hash of the run and of what it is run with (versions, rules, scenario text).

        Two runs with one key are the same run; the readable id and the label play no part.
        """
        content = {k: v for k, v in asdict(self).items() if k not in ("run_id", "label", "policy_name")}
        text = json.dumps([content, dict(context)], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Experiment:
    """A checked experiment file."""

    name: str
    path: Path
    question: str
    backend: Backend
    duration_seconds: float
    algorithms: tuple[str, ...]
    scenarios: tuple[str, ...]
    seeds: tuple[int, ...]
    policies: tuple[dict[str, Any], ...] = ({},)
    nodes: tuple[int | None, ...] = (None,)
    tempo: int = MAX_TEMPO
    repeats: int = 1
    baseline: str = DEFAULT_BASELINE
    metrics: tuple[str, ...] = DEFAULT_METRICS
    notebook: str | None = None
    comment: str = field(default="", compare=False)


def load(
    path: Path,
    *,
    algorithms: Collection[str],
    scenarios: Collection[str],
    backend: str | None = None,
    tempo: int | None = None,
) -> Experiment:
    """Read and check an experiment file.

    Parameters
    ----------
    path : Path
        The file; paths inside it are relative to its folder.
    algorithms : collection of str
        The catalogue's names, in its order.
    scenarios : collection of str
        Names of the scenarios that come with the lab.
    backend, tempo : str, int, optional
        Take the place of the file's.

    Raises
    ------
    ExperimentError
        With file, line and field of the first thing that is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ExperimentError(f"wanted an experiment file {path}, found: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ExperimentError(f"wanted {path} as UTF-8 text, found other bytes at {exc.start}") from exc
    try:
        node = yaml.compose(text, Loader=_Loader)
        content = yaml.load(text, Loader=_Loader)
        source = _Source(path, node)
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(exc, "problem", None) or " ".join(str(exc).split())
        raise ExperimentError(f"{where}: wanted YAML, found: {problem}") from exc
    if not isinstance(content, dict):
        raise ExperimentError(f"{path}: wanted a mapping with question, backend, matrix and duration")
    if backend is not None:
        content["backend"] = backend
    if tempo is not None:
        content["tempo"] = tempo
    source.check(content, SCHEMA)
    matrix = content["matrix"]
    names = _algorithms(matrix["algorithm"], algorithms, source)
    baseline = content.get("baseline")
    experiment = Experiment(
        name=re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem),
        path=path,
        question=" ".join(content["question"].split()),
        backend=content["backend"],
        duration_seconds=source.read(("duration",), parse_duration, content["duration"]),
        algorithms=names,
        scenarios=_scenarios(matrix["scenario"], path, scenarios, source),
        seeds=source.read(("matrix", "seed"), _seeds, matrix["seed"]),
        policies=tuple(matrix.get("policy", [{}])),
        nodes=tuple(matrix.get("nodes", [None])),
        tempo=content.get("tempo", default_tempo(content["backend"])),
        repeats=content.get("repeats", 1),
        baseline=baseline or (DEFAULT_BASELINE if DEFAULT_BASELINE in names else names[0]),
        metrics=tuple(content.get("metrics", DEFAULT_METRICS)),
        notebook=str((path.parent / content["notebook"]).resolve()) if "notebook" in content else None,
        comment=_first_comment(text),
    )  # fmt: skip
    _check_sense(experiment, baseline, source)
    return experiment


def default_tempo(backend: str) -> int:
    """Return the tempo of a run that names none: real time would be a waste on live backends."""
    return 1 if backend == "sim" else MAX_TEMPO


def _check_sense(experiment: Experiment, baseline: str | None, source: _Source) -> None:
    """Raise for what a schema cannot say."""
    for index, name in enumerate(experiment.metrics):
        source.read(("metrics", index), metrics.get, name)
    for index, policy in enumerate(experiment.policies):
        for name, value in policy.items():
            place = ("matrix", "policy", index, name)
            source.read(place, _POLICY_PARSERS.get(name, str), value)
    if experiment.duration_seconds <= 0:
        raise source.error(("duration",), "wanted a duration above 0")
    if experiment.backend != "sim":
        for index, policy in enumerate(experiment.policies):
            if "migration_cooldown" in policy:
                raise source.error(
                    ("matrix", "policy", index, "migration_cooldown"),
                    f"the cooldown exists on sim only, found backend {experiment.backend}: leave it out",
                )
        for name in SIM_ONLY:
            if name in experiment.algorithms:
                raise source.error(
                    ("matrix", "algorithm", experiment.algorithms.index(name)),
                    f"{name} runs on sim only, found backend {experiment.backend}: leave it out, or use backend: sim",
                )
    elif experiment.repeats > 1:
        raise source.error(
            ("repeats",), "wanted 1 on sim, where a run gives the same tables each time: add seeds instead"
        )
    if baseline is not None and baseline not in experiment.algorithms:
        raise source.error(
            ("baseline",), f"wanted one of matrix.algorithm ({', '.join(experiment.algorithms)}), found {baseline}"
        )
    if experiment.notebook is not None and not Path(experiment.notebook).is_file():
        raise source.error(("notebook",), f"wanted a notebook, found no file {experiment.notebook}")


def _algorithms(entries: Sequence[str], known: Collection[str], source: _Source) -> tuple[str, ...]:
    names: list[str] = []
    for index, entry in enumerate(entries):
        if entry == ALL:
            names += [name for name in known if name not in BASELINES]
        elif entry in known or entry in BASELINES:
            names.append(entry)
        else:
            hint = _near(entry, [*known, *BASELINES])
            raise source.error(("matrix", "algorithm", index), f"wanted an algorithm{hint}, found {entry!r}")
    return tuple(names)


def _scenarios(entries: Sequence[str], path: Path, known: Collection[str], source: _Source) -> tuple[str, ...]:
    found = []
    for index, entry in enumerate(entries):
        beside = path.parent / entry
        file = beside if beside.is_file() else Path(entry)
        if entry in known:
            found.append(entry)
        elif file.suffix in (".yaml", ".yml", ".json") and file.is_file():
            found.append(str(file.resolve()))
        else:
            raise source.error(
                ("matrix", "scenario", index), f"wanted a scenario{_near(entry, known)} or a file, found {entry!r}"
            )
    return tuple(found)


def _near(entry: str, known: Collection[str]) -> str:
    close = [name for name in known if len(entry) > 2 and entry in name][:3]
    close = close or difflib.get_close_matches(entry, list(known), n=3)
    return f" such as {', '.join(close or list(known)[:3])}" if known else ""


def _seeds(value: Sequence[int] | str) -> tuple[int, ...]:
    if isinstance(value, str):
        first, last = (int(part) for part in value.split(".."))
        if last < first:
            raise InputError(f"wanted a range that goes up, found {value}")
        return tuple(range(first, last + 1))
    return tuple(value)


def check_policy(policy: Mapping[str, Any]) -> dict[str, Any]:
    """Check differences from the production policy, by the names of ``matrix.policy``.

    Raises
    ------
    InputError
        If a name or a value is wrong.
    """
    for error in Draft202012Validator(POLICY_SCHEMA).iter_errors(dict(policy)):
        place, message = _explain(error)
        raise InputError(f"policy {'.'.join(map(str, place))}: {message}")
    for name, value in policy.items():
        try:
            _POLICY_PARSERS.get(name, str)(value)
        except InputError as exc:
            raise InputError(f"policy {name}: {exc}") from exc
    return dict(policy)


def _interval(value: Any) -> float:
    seconds = parse_duration(value)
    if seconds <= 0:
        raise InputError(f"wanted an interval above 0, found {value!r}")
    return seconds


_POLICY_PARSERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "thresholds": parse_thresholds, "descheduling_interval": _interval, "evaluation_interval": _interval,
    "migration_cooldown": parse_duration,
}  # fmt: skip

_SHORT: Final = {
    "thresholds": "", "evictions_per_node": "node", "evictions_total": "total", "descheduling_interval": "every",
    "evaluation_interval": "eval", "migrations_per_cluster": "parallel", "migrations_per_node": "outbound",
    "soft_taints": "softtaints", "migration_cooldown": "cooldown",
}  # fmt: skip


def policy_name(policy: Mapping[str, Any]) -> str:
    """Return a short name for a policy, such as ``AsymmetricLow-node2``; empty for the production policy."""
    parts = []
    for name, value in policy.items():
        if isinstance(value, bool):
            parts.append(_SHORT[name] if value else f"no{_SHORT[name]}")
        else:
            parts.append(_SHORT[name] + str(value))
    return "-".join(parts)


def expand(experiment: Experiment) -> list[RunSpec]:
    """Return the runs of an experiment, always in the same order.

    Blocks (scenario, seed, size, policy, repeat) come one after another; within a block the algorithms follow
    each other. On live backends their order within each block is shuffled by a hash, so that what drifts on the
    machine does not favour the algorithm that happens to be named first.
    """
    entries = _labels(experiment.algorithms)
    single_policy = len(experiment.policies) == 1
    runs = []
    blocks = itertools.product(
        experiment.scenarios, experiment.nodes, experiment.policies, experiment.seeds, range(1, experiment.repeats + 1)
    )
    for scenario, nodes, policy, seed, repeat in blocks:
        name = policy_name(policy)
        block = []
        for algorithm, label in entries:
            parts = [
                label.replace(" ", "-").translate({ord("("): None, ord(")"): None}),
                Path(scenario).stem,
                f"n{nodes}" if nodes is not None else "",
                "" if single_policy else (name or "production"),
                f"s{seed}",
                f"r{repeat}" if experiment.repeats > 1 else "",
                experiment.backend,
            ]
            run_id = re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join(part for part in parts if part))
            block.append(
                RunSpec(
                    run_id=run_id, backend=experiment.backend, scenario=scenario, algorithm=algorithm, seed=seed,
                    label=label, policy=dict(policy), policy_name=name, tempo=experiment.tempo,
                    duration_seconds=experiment.duration_seconds, nodes=nodes, repeat=repeat,
                )
            )  # fmt: skip
        if experiment.backend != "sim":
            block.sort(key=lambda run: hashlib.sha256(run.run_id.encode()).digest())
        runs += block
    run_id, count = Counter(run.run_id for run in runs).most_common(1)[0]
    if count > 1:
        raise ExperimentError(
            f"{experiment.path}: wanted each combination once, found {run_id} {count} times: remove repeated "
            "scenarios, seeds, sizes or policies, and give scenarios files of different names"
        )
    return runs


def _labels(algorithms: Sequence[str]) -> list[tuple[str, str]]:
    """Name an algorithm that is entered again: the two must come out equal, a control of the statistics."""
    seen: Counter[str] = Counter()
    entries = []
    for algorithm in algorithms:
        seen[algorithm] += 1
        again = (
            "" if seen[algorithm] == 1 else " (again)" if seen[algorithm] == 2 else f" (again {seen[algorithm] - 1})"
        )
        entries.append((algorithm, algorithm + again))
    return entries


def _first_comment(text: str) -> str:
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return " ".join(line.lstrip("# ").strip() for line in lines)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers: ``10:30`` is text and ``08`` is 8, and so are dates text; and a key may stand once only."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for index, (key, _) in enumerate(node.value):
            if key.value in keys[:index]:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} given twice", key.start_mark)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag.rpartition(":")[2] not in ("int", "float", "timestamp")]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


def _whole(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int | float:
    """Read a number; what is whole is one however it is written, as JSON Schema has it."""
    value = float(loader.construct_scalar(node))
    return int(value) if value.is_integer() else value


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _whole)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?\d+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.\d*|\.\d+)([eE][-+]?\d+)?$"), list("-+.0123456789")
)


class _Source:
    """Where each field of a YAML file stands."""

    def __init__(self, path: Path, node: yaml.Node | None) -> None:
        self.path = path
        self.lines: dict[tuple[str | int, ...], int] = dict(_lines(node, ())) if node is not None else {}

    def error(self, field_path: Sequence[str | int], message: str) -> ExperimentError:
        """Make the error for a field; a missing one has the line of what should contain it."""
        place = tuple(field_path)
        while place not in self.lines and place:
            place = place[:-1]
        name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in field_path).lstrip(".")
        line = self.lines.get(place, 1)
        return ExperimentError(f"{self.path}:{line}: {name or 'file'}: {message}")

    def read(self, place: Sequence[str | int], parse: Callable[[Any], T], value: Any) -> T:
        """Parse a value; what is wrong with it is reported at its place."""
        try:
            return parse(value)
        except InputError as exc:
            raise self.error(place, str(exc)) from exc

    def check(self, content: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
        """Raise for the first thing that does not fit the schema."""
        errors = list(Draft202012Validator(dict(schema)).iter_errors(content))
        if errors:
            # The file's order is the reader's order.
            first = min(errors, key=lambda error: self.lines.get(tuple(error.absolute_path), 0))
            raise self.error(*_explain(first))


def _lines(node: yaml.Node, place: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], int]]:
    yield place, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*place, str(key.value)), key.start_mark.line + 1
            for inner, line in _lines(value, (*place, str(key.value))):
                if inner != (*place, str(key.value)):
                    yield inner, line
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines(value, (*place, index))


_TYPES: Final = {
    "object": "a mapping", "array": "a list", "string": "text", "integer": "a whole number", "number": "a number",
    "boolean": "true or false",
}  # fmt: skip


def _explain(error: ValidationError) -> tuple[list[str | int], str]:
    """Say in the house's words what a schema violation means, and where."""
    place: list[str | int] = list(error.absolute_path)
    rule, wanted, found = error.validator, cast(Any, error.validator_value), cast(Any, error.instance)
    if rule == "additionalProperties":
        known = list(cast(Mapping[str, Any], error.schema)["properties"])
        unknown = next(name for name in found if name not in known)
        close = difflib.get_close_matches(str(unknown), known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return [*place, unknown], f"wanted one of {', '.join(known)}, found {unknown!r}{hint}"
    if rule == "required":
        missing = next(name for name in wanted if name not in found)
        return [*place, missing], "wanted, but missing"
    if rule == "type":
        kinds = [wanted] if isinstance(wanted, str) else wanted
        return place, f"wanted {' or '.join(_TYPES[kind] for kind in kinds)}, found {found!r}"
    if rule == "enum":
        return place, f"wanted one of {', '.join(map(str, wanted))}, found {found!r}"
    if rule == "minItems" or rule == "minLength":
        return place, "wanted at least one entry, found none"
    if rule in ("minimum", "maximum"):
        return place, f"wanted {'at least' if rule == 'minimum' else 'at most'} {wanted}, found {found}"
    if rule == "oneOf":
        return place, f"wanted a list of whole numbers such as [1, 2], or a range such as 1..20, found {found!r}"
    return place, error.message
