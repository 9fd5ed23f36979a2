"""What the rule loader decides: Prometheus' configuration, the text of rule files, the answer to a review.

Pure: objects in, text or answers out. The one thing that is neither, asking promtool, is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import yaml

from labkit.clock import wall_seconds
from labkit.errors import InputError
from labkit.kube import key_of
from labkit.promql.rewrite import scale_group
from labkit.units import format_duration, parse_duration

Object = Mapping[str, Any]
Check = Callable[[str], str | None]
"""promtool: from the text of a rule file to what is wrong with it, or None."""

RULES_FOLDER: Final = "rules"
LONGEST_SCRAPE_TIMEOUT_SECONDS: Final = 10.0


# --- Prometheus' configuration ----------------------------------------------------------------------


def render_config(template: str, *, scrape_interval: str, evaluation_interval: str, tempo: int) -> str:
    """Return Prometheus' configuration for a lab.

    Parameters
    ----------
    template : str
        A configuration in lab time at tempo 1.
    scrape_interval, evaluation_interval : str
        The lab's, in wall time: they replace the template's global ones.
    tempo : int
        Divides intervals and timeouts that single jobs name.

    Raises
    ------
    InputError
        If the template is no YAML mapping, or an interval no duration.
    """
    try:
        config = yaml.safe_load(template)
    except yaml.YAMLError as exc:
        raise InputError(f"wanted Prometheus' configuration, found no YAML: {exc}") from exc
    if not isinstance(config, dict):
        raise InputError(f"wanted Prometheus' configuration as a mapping, found {type(config).__name__}")
    timeout = min(parse_duration(scrape_interval), LONGEST_SCRAPE_TIMEOUT_SECONDS)
    config["global"] = {
        **(config.get("global") or {}),
        "scrape_interval": scrape_interval,
        "scrape_timeout": format_duration(timeout),
        "evaluation_interval": evaluation_interval,
    }
    for job in config.get("scrape_configs") or ():
        for name in ("scrape_interval", "scrape_timeout"):
            if name in job:
                job[name] = format_duration(wall_seconds(parse_duration(job[name]), tempo))
    config["rule_files"] = [f"{RULES_FOLDER}/*.yaml"]
    return _dump(config)


# --- rule files -------------------------------------------------------------------------------------


def file_name(obj: Object) -> str:
    """Return the name of an object's rule file; it differs for every namespace and name."""
    namespace, name = key_of(obj)
    return f"{namespace}_{name}.yaml"  # neither may contain an underscore


def rule_text(obj: Object, *, tempo: int) -> str:
    """Return the text of an object's rule file.

    Parameters
    ----------
    obj : Mapping
        The PrometheusRule, with windows and intervals in lab time.
    tempo : int
        What divides them; at 1 the expressions stay as they were written, letter for letter.

    Raises
    ------
    InputError
        If an expression or duration cannot be read, or a window cannot be divided.
    """
    groups = (obj.get("spec") or {}).get("groups") or []
    content = {"groups": groups}
    return _dump(content if tempo == 1 else scale_group(content, tempo))


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as a block, so that line numbers in messages mean something."""


def _block_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _block_text)


def _dump(value: Any) -> str:
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)
    return text


# --- reviews ----------------------------------------------------------------------------------------


def review(request: Object, others: Iterable[Object], *, tempo: int, check: Check) -> dict[str, Any]:
    """Answer an AdmissionReview about a PrometheusRule.

    Parameters
    ----------
    request : Mapping
        The AdmissionReview.
    others : iterable of Mapping
        The PrometheusRules that there are.
    tempo : int
        The lab's.
    check : callable
        Asks promtool.

    Returns
    -------
    dict
        The AdmissionReview with the answer: allowed, or refused with what is wrong.
    """
    asked = request["request"]
    reason = fault(asked["object"], others, tempo=tempo, check=check)
    response: dict[str, Any] = {"uid": asked["uid"], "allowed": reason is None}
    if reason is not None:
        response["status"] = {"code": 422, "reason": "Invalid", "message": reason}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}


def fault(obj: Object, others: Iterable[Object], *, tempo: int, check: Check) -> str | None:
    """Return why Prometheus could not use an object, or None if it can.

    The text is checked as it was written, so that messages speak of what the user sees, and again as this lab will
    run it.
    """
    found = check(rule_text(obj, tempo=1)) or duplicate(obj, others)
    if found is not None or tempo == 1:
        return found
    try:
        scaled = check(rule_text(obj, tempo=tempo))
    except InputError as error:
        return str(error)
    return None if scaled is None else f"with windows divided by tempo {tempo}: {scaled}"


def duplicate(obj: Object, others: Iterable[Object]) -> str | None:
    """Return which series two rules would both write, or None.

    The same name with other labels is another series, and an object does not collide with its own former self.
    """
    written: dict[tuple[str, tuple[tuple[str, str], ...]], str] = {}
    for other in others:
        if key_of(other) != key_of(obj):
            written |= dict.fromkeys(_series(other), "/".join(key_of(other)))
    for series in _series(obj):
        if series in written:
            record, labels = series
            text = record + ("{" + ", ".join(f'{k}="{v}"' for k, v in labels) + "}" if labels else "")
            return (
                f"wanted each record from one rule, found {text} again, already written by "
                f"PrometheusRule {written[series]}: rename it here, or delete it there first"
            )
        written[series] = "/".join(key_of(obj)) + " itself"
    return None


def _series(obj: Object) -> Sequence[tuple[str, tuple[tuple[str, str], ...]]]:
    return [
        (rule["record"], tuple(sorted({**(group.get("labels") or {}), **(rule.get("labels") or {})}.items())))
        for group in (obj.get("spec") or {}).get("groups") or ()
        for rule in group.get("rules") or ()
        if rule.get("record")
    ]
