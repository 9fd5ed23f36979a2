"""Algorithms of the user's own: a PromQL rule in a YAML file, or a Python function with a decorator.

Files are looked for, in this order, in ``algorithms/`` beside the lab's ``rules/``, in the user's configuration folder
(``~/.config/labkit/algorithms``, XDG_CONFIG_HOME is honoured), and in every folder or file that the environment
variable LABKIT_ALGORITHMS names. A Python file is executed when it is read: only files the user put there are.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from labkit.datafiles import data_path
from labkit.errors import InputError, RuleError
from labkit.names import MONITORING_NAMESPACE
from labkit.scoring.algorithm import FORM_RECORDS, FORMS, MARK, SCORER_METRIC, Algorithm, Form, record_name

FOLDERS_VARIABLE: Final = "LABKIT_ALGORITHMS"
CONFIG_MAP: Final = "lab-algorithms"
"""ConfigMap, in the monitoring namespace, that carries the users' Python files to the scorer."""
FAMILY: Final = "yours"

_NAME = re.compile(r"^[a-z][a-z0-9_]*$")
_RECORD = re.compile(r"^descheduler:node:(?P<name>[a-z][a-z0-9_]*):(?P<form>score|avg1m)$")
_SUFFIXES: Final = (".py", ".yaml", ".yml")


def places() -> tuple[Path, ...]:
    """Return the folders and files where users' algorithms are looked for, whether they exist or not."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    named = os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep)
    return (
        data_path("rules").parent / "algorithms",
        config / "labkit" / "algorithms",
        *(Path(text).expanduser() for text in named if text),
    )


def files() -> Iterator[Path]:
    """Yield the files that hold users' algorithms, in the order of :func:`places`, then by name."""
    for place in places():
        if place.is_file():
            yield place
        elif place.is_dir():
            yield from sorted(
                path for path in place.iterdir() if path.suffix in _SUFFIXES and not path.name.startswith((".", "_"))
            )


def load(path: Path, *, taken: Collection[str] = ()) -> tuple[Algorithm, ...]:
    """Read the algorithms of one file.

    Parameters
    ----------
    path : Path
        A ``.py`` file with functions marked by :func:`~labkit.scoring.algorithm`, or a YAML file with a PrometheusRule
        (or a bare ``groups:``) whose records are called ``descheduler:node:NAME:avg1m`` or ``…:score``.
    taken : collection of str
        Names that are not free.

    Returns
    -------
    tuple of Algorithm
        At least one.

    Raises
    ------
    InputError
        If the file cannot be read, holds no algorithm, or names one badly.
    """
    if path.suffix not in _SUFFIXES:
        raise InputError(f"{path}: wanted a file that ends in .yaml or .py, found {path.name}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(f"{path}: cannot be read: {exc}") from exc
    return load_text(path, text, taken=taken)


def load_text(path: Path, text: str, *, taken: Collection[str] = ()) -> tuple[Algorithm, ...]:
    """Read the algorithms of a file whose text is at hand; see :func:`load`."""
    found = _from_python(path, text) if path.suffix == ".py" else _from_rules(path, text)
    for each in found:
        if each.name in taken:
            raise InputError(f"{path}: wanted a name of its own, found {each.name}, which is the lab's: choose another")
    return found


def load_all(*, taken: Collection[str] = ()) -> tuple[list[Algorithm], list[InputError]]:
    """Read every user's algorithm; a broken file is returned as its error and disturbs no other."""
    found: dict[str, Algorithm] = {}
    errors: list[InputError] = []
    for path in files():
        try:
            loaded = load(path, taken=taken)
            for each in loaded:
                if each.name in found:
                    raise InputError(f"{path}: {each.name} is already defined in {found[each.name].file}: rename one")
        except InputError as error:
            errors.append(error)
        else:
            found.update((each.name, each) for each in loaded)
    return list(found.values()), errors


def scorer_rules(name: str) -> tuple[Mapping[str, object], ...]:
    """Return the recording rules that give the scorer's values of an algorithm their record names.

    They yield nothing for a node that has no load records now, whatever the scorer said an evaluation ago.
    """
    return tuple(
        {
            "record": record_name(name, form),
            "expr": f'max by (instance) ({SCORER_METRIC}{{algorithm="{name}", form="{form}"}})\n'
            f"and on (instance) {FORM_RECORDS[form]['cpu_usage']}",
        }
        for form in FORMS
    )


def manifests(algorithms: Sequence[Algorithm]) -> list[dict[str, Any]]:
    """Return the Kubernetes objects that bring users' algorithms to a live lab.

    Parameters
    ----------
    algorithms : sequence of Algorithm
        Users' algorithms; built-in ones need nothing and are left out.

    Returns
    -------
    list of dict
        A ConfigMap with the Python files for the scorer (empty data where there are none), and a PrometheusRule for
        each file.
    """
    own = [each for each in algorithms if each.file is not None]
    python = sorted({each.file for each in own if each.file is not None and each.file.suffix == ".py"})
    objects: list[dict[str, Any]] = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": _metadata(CONFIG_MAP),
            "data": {path.name: path.read_text(encoding="utf-8") for path in python},
        }
    ]
    for path in sorted({each.file for each in own if each.file is not None}):
        rules: list[dict[str, object]] = []
        for each in own:
            if each.file == path:
                rules.extend(dict(rule) for rule in each.rules if dict(rule) not in rules)
        name = "user-" + re.sub(r"[^a-z0-9-]+", "-", path.stem.lower()).strip("-")
        objects.append(
            {
                "apiVersion": "monitoring.coreos.com/v1",
                "kind": "PrometheusRule",
                "metadata": _metadata(name),
                "spec": {"groups": [{"name": name, "rules": rules}]},
            }
        )
    return objects


def _metadata(name: str) -> dict[str, Any]:
    labels = {"app.kubernetes.io/part-of": "labkit", "app.kubernetes.io/managed-by": "labkit"}
    return {"name": name, "namespace": MONITORING_NAMESPACE, "labels": labels}


def _from_python(path: Path, text: str) -> tuple[Algorithm, ...]:
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_loader(f"labkit_user_{path.stem}_{digest}", loader=None, origin=str(path))
    assert spec is not None  # a spec is refused only without loader and origin
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    sys.modules[spec.name] = module  # dataclasses and pickling look their module up
    try:
        exec(compile(text, str(path), "exec"), module.__dict__)
    except Exception as exc:  # a user's code may fail in any way; the message says where
        raise InputError(f"{path}: cannot be executed: {type(exc).__name__}: {exc}") from exc
    found = []
    for value in vars(module).values():
        marked = getattr(value, MARK, None)
        if marked is None or not callable(value):
            continue
        name, description = marked
        if not _NAME.match(name):
            raise InputError(f"{path}: wanted a name of lower-case letters, digits and underscores, found {name!r}")
        found.append(
            Algorithm(
                name, FAMILY, "scorer", description or "no description",
                {form: record_name(name, form) for form in FORMS}, value, scorer_rules(name), path,
            )
        )  # fmt: skip
    if not found:
        raise InputError(
            f"{path}: wanted a function marked by @algorithm (from labkit.scoring import algorithm), found none"
        )
    return tuple(found)


def _from_rules(path: Path, text: str) -> tuple[Algorithm, ...]:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise RuleError(f"{path}: is no YAML: {' '.join(str(exc).split())}") from exc
    wanted = "a PrometheusRule object or a mapping with 'groups'"
    if not isinstance(document, dict):
        raise RuleError(f"{path}: wanted {wanted}, found {type(document).__name__}")
    spec = document.get("spec") if document.get("kind") == "PrometheusRule" else document
    groups = spec.get("groups") if isinstance(spec, dict) else None
    if not isinstance(groups, list) or not groups:
        raise RuleError(f"{path}: wanted {wanted}, found {', '.join(map(str, document)) or 'nothing'}")
    rules: list[Mapping[str, object]] = []
    records: dict[str, dict[Form, str]] = {}
    for group in groups:
        if not isinstance(group, dict) or not isinstance(group.get("rules"), list):
            raise RuleError(f"{path}: wanted a list of rules in each group, found {group!r}")
        for rule in group["rules"]:
            if not isinstance(rule, dict) or not isinstance(rule.get("expr"), str | int | float):
                raise RuleError(f"{path}: wanted rules with 'record' and 'expr', found {rule!r}")
            rules.append({**rule, "expr": str(rule["expr"])})
            match = _RECORD.match(str(rule.get("record", "")))
            if match:
                form: Form = "score" if match["form"] == "score" else "avg1m"
                records.setdefault(match["name"], {})[form] = match[0]
    if not records:
        names = ", ".join(str(rule.get("record")) for rule in rules) or "none"
        raise RuleError(f"{path}: wanted a record called descheduler:node:NAME:avg1m or :score, found {names}")
    metadata = document.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    description = str(annotations.get("description", "")) if isinstance(annotations, dict) else ""
    return tuple(
        Algorithm(name, FAMILY, "rule", description or "no description", forms, None, tuple(rules), path)
        for name, forms in records.items()
    )
