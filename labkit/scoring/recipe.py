"""What a cluster is given so that its descheduler goes by an algorithm: a policy, and the rules behind its query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from labkit.datafiles import data_path
from labkit.descheduling import parse_thresholds
from labkit.policy import read_policy
from labkit.promql import RuleGroup, parse_rules
from labkit.scoring import get


def policy(name: str, *, thresholds: str | None = None) -> str:
    """Return the DeschedulerPolicy that goes by an algorithm, as ``labkit use`` would set it in an untouched lab.

    Parameters
    ----------
    name : str
        Of the algorithm.
    thresholds : str, optional
        ``0:10`` or a preset; production's without it.

    Raises
    ------
    InputError
        If there is no such algorithm, or the thresholds are wrong.
    """
    manifest = yaml.safe_load(data_path("k8s", "descheduler-policy.yaml").read_text(encoding="utf-8"))
    changed = read_policy(manifest["data"]["policy.yaml"]).with_query(get(name).record)
    if thresholds is not None:
        limits = parse_thresholds(thresholds)
        changed = changed.with_thresholds(limits.low, limits.high)
    return changed.text.rstrip() + "\n"


def rules(name: str) -> str:
    """Return the PrometheusRule with what an algorithm's record needs, in the order of evaluation.

    Everything it needs down to metrics of the nodes is there; where the scorer computes the score, that is one of
    these metrics.

    Raises
    ------
    InputError
        If there is no such algorithm.
    """
    algorithm = get(name)
    manifest = yaml.safe_load(data_path("rules", "scores.yaml").read_text(encoding="utf-8"))
    group = manifest["spec"]["groups"][0]
    group["rules"] = [*group["rules"], *map(dict, algorithm.rules)]
    needed = set(_group(manifest).needed_for(algorithm.record).records)
    group["rules"] = [rule for rule in group["rules"] if rule["record"] in needed]
    manifest["metadata"]["name"] = f"descheduler-{algorithm.name.replace('_', '-')}"
    return str(yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True))


def own_rules(name: str) -> str:
    """Return the rule that writes an algorithm's record, alone: what distinguishes it from the others."""
    algorithm = get(name)
    content = yaml.safe_load(rules(name))["spec"]["groups"][0]["rules"]
    own = [rule for rule in content if rule["record"] == algorithm.record]
    return str(yaml.dump(own, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True))


def inputs(name: str) -> tuple[str, ...]:
    """Return the metrics that an algorithm's rules read and that no rule records, sorted."""
    group = _group(yaml.safe_load(rules(name)))
    return tuple(sorted({selector.name for selector in group.inputs if selector.name}))


def _group(manifest: Mapping[str, Any]) -> RuleGroup:
    return parse_rules(yaml.safe_dump(manifest, sort_keys=False), source="rules/scores.yaml")


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such, and indents lists."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)
