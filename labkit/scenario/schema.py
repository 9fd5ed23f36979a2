"""The shape of a scenario, read from the custom resource's own schema.

One schema for files and for objects in the cluster: ``k8s/crds/simulationscenarios.yaml``. The API server prunes what
it does not know; a file with an unknown field is refused here, because a typo that is dropped silently changes an
experiment.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from labkit.datafiles import data_path
from labkit.errors import ScenarioError
from labkit.names import GROUP, SCENARIO_KIND
from labkit.schema import Draft202012Validator, ValidationError
from labkit.versions import SIMULATION_API_VERSION

API_VERSION = f"{GROUP}/{SIMULATION_API_VERSION}"


def check_document(document: Any, source: str) -> None:
    """Check a scenario object against the schema.

    Parameters
    ----------
    document : object
        What the YAML or JSON holds.
    source : str
        File or object name, for the error's text.

    Raises
    ------
    ScenarioError
        One line with source and field: the first that is wrong, in the order of the document.
    """
    if not isinstance(document, Mapping):
        raise ScenarioError(f"{source}: wanted a SimulationScenario object, found {_short(document)}")
    for field, wanted in (("apiVersion", API_VERSION), ("kind", SCENARIO_KIND)):
        if document.get(field) != wanted:
            raise ScenarioError(f"{source}: {field}: wanted {wanted}, found {_short(document.get(field))}")
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    if not isinstance(name, str) or not name:
        raise ScenarioError(f"{source}: metadata.name: wanted a name, found {_short(name)}")
    errors = sorted(_validator().iter_errors(document), key=lambda error: [str(part) for part in error.absolute_path])
    if errors:
        raise ScenarioError(f"{source}: {_explain(errors[0])}")


@functools.cache
def _validator() -> Draft202012Validator:
    path = data_path("k8s", "crds", "simulationscenarios.yaml")
    crd = yaml.safe_load(path.read_text(encoding="utf-8"))
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return Draft202012Validator(_strict(schema, at_top=True))


def _strict(schema: Any, *, at_top: bool = False) -> Any:
    """Turn a structural schema into JSON Schema that refuses unknown fields."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {
        key: {name: _strict(value) for name, value in inner.items()} if key == "properties" else _strict(inner)
        for key, inner in schema.items()
        if not key.startswith("x-kubernetes-") and key not in ("description", "format")
    }
    if schema.get("x-kubernetes-int-or-string"):
        strict["type"] = ["integer", "string"]
    if "properties" in schema:
        strict.setdefault("additionalProperties", False)
    if at_top:
        strict["properties"]["metadata"] = {"type": "object"}
    return strict


def _explain(error: ValidationError) -> str:
    where = field_path(error.absolute_path)
    found = _short(error.instance)
    found_value: Any = error.instance
    wanted: Any = error.validator_value
    if error.validator == "additionalProperties":
        known = error.schema["properties"] if isinstance(error.schema, Mapping) else {}
        unknown = sorted(str(field) for field in dict(found_value) if field not in known)[0]
        return f"{where}.{unknown}: unknown field, wanted one of {', '.join(known)}"
    if error.validator == "required":
        missing = next(field for field in wanted if field not in found_value)
        return f"{where}.{missing}: wanted a value, found nothing"
    if error.validator == "type":
        types = " or ".join([wanted] if isinstance(wanted, str) else wanted)
        return f"{where}: wanted {types}, found {found}"
    if error.validator == "enum":
        return f"{where}: wanted one of {', '.join(map(str, wanted))}, found {found}"
    if error.validator in ("minimum", "maximum"):
        bound = "at least" if error.validator == "minimum" else "at most"
        return f"{where}: wanted {bound} {wanted:g}, found {found}"
    if error.validator == "pattern":
        return f"{where}: wanted a name that matches {wanted}, found {found}"
    return f"{where}: {error.message}"


def field_path(parts: Sequence[str | int] | Any) -> str:
    """Write a path of keys and indices as ``spec.vmPools[0].count``."""
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "object"


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
