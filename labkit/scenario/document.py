"""Scenario files: finding, reading and checking them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from labkit.datafiles import data_path
from labkit.errors import InputError, ScenarioError
from labkit.migration import DEFAULT_LINK_BYTES_PER_SECOND
from labkit.scenario.expansion import seconds
from labkit.scenario.scenario import Scenario
from labkit.scenario.schema import check_document
from labkit.traces import resolve_traces


def scenario_names() -> list[str]:
    """Return the names of the scenarios that come with the lab, sorted."""
    return sorted(path.stem for path in data_path("experiments", "scenarios").glob("*.yaml"))


def load_scenario(name_or_path: str | Path) -> Scenario:
    """Read a scenario.

    Parameters
    ----------
    name_or_path : str or Path
        A name under ``experiments/scenarios``, or the path of a YAML or JSON file.

    Raises
    ------
    ScenarioError
        If there is none, or it is wrong: one line with file and field.
    TraceError
        If a trace file that it names cannot be read.
    """
    path = _find(name_or_path)
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.YAMLError as exc:
        where = getattr(exc, "problem_mark", None)
        line = f", line {where.line + 1}" if where is not None else ""
        problem = getattr(exc, "problem", None) or str(exc)
        raise ScenarioError(f"{path}{line}: wanted YAML, found: {problem}") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise ScenarioError(f"{path}: cannot be read: {exc}") from exc
    return parse_scenario(document, str(path), folder=path.parent)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML that refuses a key that is given twice: the first would be lost silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} given twice", key.start_mark)
            seen.add(str(key.value))
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def _find(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith((".yaml", ".yml", ".json")):
        path = Path(name_or_path)
        if not path.is_file():
            raise ScenarioError(f"wanted a scenario file, found none at {text}")
        return path
    names = scenario_names()
    if text not in names:
        raise ScenarioError(f"wanted a scenario file or one of {', '.join(names)}, found {text!r}")
    return data_path("experiments", "scenarios", f"{text}.yaml")


def parse_scenario(document: Any, source: str, *, folder: Path | None = None) -> Scenario:
    """Check a SimulationScenario object and return its value.

    Parameters
    ----------
    document : object
        The object, as YAML or the API server gives it.
    source : str
        Its name for error texts.
    folder : Path, optional
        Where relative paths of trace files begin; without it (an object in a cluster) trace files are refused.

    Raises
    ------
    ScenarioError
        One line with source and field.
    """
    if isinstance(document, Mapping) and isinstance(document.get("spec"), Mapping):
        document = {**document, "spec": resolve_traces(copy.deepcopy(document["spec"]), source, folder)}
    check_document(document, source)
    spec = document["spec"]
    try:
        duration = seconds(spec["duration"], "spec.duration")
        if not duration > 0:
            raise InputError(f"spec.duration: wanted more than 0, found {spec['duration']!r}")
    except InputError as exc:
        raise ScenarioError(f"{source}: {exc}") from exc
    megabits = spec.get("networkBandwidthMbps")
    scenario = Scenario(
        name=document["metadata"]["name"],
        source=source,
        document=document,
        duration_seconds=duration,
        seed=spec.get("seed", 0),
        link_bytes_per_second=DEFAULT_LINK_BYTES_PER_SECOND if megabits is None else megabits * 1e6 / 8,
        pressure_model=spec.get("pressureModel", "monotone"),
        question=spec.get("question", ""),
    )
    scenario.expand()
    return scenario
