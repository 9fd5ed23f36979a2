"""PromQL without Prometheus: rule files compiled to array operations.

Rules and expressions mean what they mean to Prometheus 3.12; what goes beyond the supported part of PromQL
is refused when it is loaded. Data flows one way: samples are appended to a :class:`Database`, an
:class:`Expression` reads it at an instant, a :class:`RuleGroup` writes what its rules yield back.

Nothing here knows about nodes, scores or the lab.
"""

from __future__ import annotations

from labkit.promql.expression import Expression, RangeResult
from labkit.promql.labels import LabelTable
from labkit.promql.rules import Rule, RuleFailure, RuleGroup, load_rules, parse_rules
from labkit.promql.selector import Selector
from labkit.promql.storage import Database
from labkit.promql.vector import Vector

__all__ = [
    "Database",
    "Expression",
    "LabelTable",
    "RangeResult",
    "Rule",
    "RuleFailure",
    "RuleGroup",
    "Selector",
    "Vector",
    "load_rules",
    "parse_rules",
]
