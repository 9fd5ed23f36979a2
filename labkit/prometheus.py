"""The only door to Prometheus' HTTP query API.

:class:`Prometheus` asks; :class:`Sample` is one answer of an instant query, a tidy data frame the answer of a range
query. Times are UTC seconds since 1970. Requests go through ``prometheus-api-client``; what that library rounds
(range bounds to whole seconds) or leaves to the caller (errors, long ranges, duplicates) is put right here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import orjson

from labkit.errors import NoAnswerError, NoSamplesError, PrometheusError, QueryError
from labkit.names import NODE_LABEL, PROMETHEUS_PORT

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Prometheus", "Sample"]

DEFAULT_URL: Final = f"http://127.0.0.1:{PROMETHEUS_PORT}"
POINTS_PER_REQUEST: Final = 10_000
"""Prometheus refuses more than 11,000 points per series in one range query."""

_STATUS = re.compile(r"^HTTP Status Code (\d+) \((b['\"].*)\)$", re.DOTALL)


@dataclass(frozen=True)
class Sample:
    """One value of one series.

    Parameters
    ----------
    labels : dict of str to str
        The series' labels, ``__name__`` among them where it has a name; empty for a scalar.
    value : float
        The value; NaN and infinities as Prometheus gave them.
    time : float
        When it holds, in seconds since 1970.
    """

    labels: dict[str, str]
    value: float
    time: float


class Prometheus:
    """A Prometheus server. Safe to use from several threads.

    Parameters
    ----------
    url : str
        Where it listens, for example ``http://127.0.0.1:9090``.
    timeout : float
        Seconds after which an unanswered request is given up.
    """

    def __init__(self, url: str = DEFAULT_URL, timeout: float = 10.0) -> None:
        import requests
        from prometheus_api_client import PrometheusConnect
        from urllib3.util import Retry

        self.url = url.rstrip("/")
        self.timeout_seconds = timeout
        session = requests.Session()
        session.trust_env = False  # a proxy of the user's must not stand between the lab and its Prometheus
        self._connection = PrometheusConnect(self.url, session=session, retry=Retry(total=0), timeout=timeout)

    def query(self, promql: str, time: float | None = None) -> list[Sample]:
        """Evaluate an expression at one instant.

        Parameters
        ----------
        promql : str
            The expression; its result is a vector or a scalar.
        time : float, optional
            The instant, in seconds since 1970; now without it.

        Returns
        -------
        list of Sample
            One per series, in Prometheus' order; empty if nothing matches.

        Raises
        ------
        QueryError
            If Prometheus refuses the expression, or it yields a range or a string.
        PrometheusError
            If Prometheus does not answer.
        """
        params = {} if time is None else {"time": _exact(time)}
        result = self._ask(promql, lambda: self._connection.custom_query(promql, params))
        if result and not isinstance(result[0], dict):
            return [Sample({}, _number(promql, result[1]), float(result[0]))]
        return [Sample(series["metric"], *_value_and_time(promql, series)) for series in result]

    def by_node(self, promql: str, time: float | None = None) -> dict[str, float]:
        """Evaluate an expression that yields one sample per node.

        Returns
        -------
        dict of str to float
            Value by node name, the label ``instance``.

        Raises
        ------
        NoSamplesError
            If the expression yields nothing.
        QueryError
            If a sample has no ``instance``, or two samples have the same.
        """
        samples = self.query(promql, time)
        if not samples:
            raise NoSamplesError(
                f"wanted one sample per node from {promql!r}, found none; is the rule loaded (/rules) and have its "
                "series been scraped for the length of its window (/targets)?",
                query=promql,
            )
        values: dict[str, float] = {}
        for sample in samples:
            node = sample.labels.get(NODE_LABEL)
            if node is None:
                raise QueryError(
                    f"wanted the label {NODE_LABEL!r} on each sample of {promql!r}, found {sample.labels}",
                    query=promql,
                )
            if node in values:
                raise QueryError(
                    f"wanted one sample per node from {promql!r}, found several for {node}; aggregate with "
                    f"'by ({NODE_LABEL})'",
                    query=promql,
                )
            values[node] = sample.value
        return values

    def query_range(self, promql: str, start: float, end: float, step: float) -> pd.DataFrame:
        """Evaluate an expression at evenly spaced instants.

        Parameters
        ----------
        promql : str
            The expression.
        start, end : float
            First and last instant, in seconds since 1970, to the millisecond.
        step : float
            Seconds between instants, positive, to the millisecond.

        Returns
        -------
        pandas.DataFrame
            Tidy: ``time`` (float64, seconds since 1970), one text column per label in the order of their names (missing
            labels are empty), ``value`` (float64); ordered by series, then time. No rows if nothing matches.

        Raises
        ------
        QueryError
            If Prometheus refuses the expression or the bounds make no sense.
        PrometheusError
            If Prometheus does not answer.
        """
        import pandas as pd  # half a second, and services only ever ask for an instant

        if not (math.isfinite(start) and math.isfinite(end) and start <= end and step >= 0.001):
            raise QueryError(
                f"wanted start <= end and a step of 1 ms or more, found start {start}, end {end}, step {step}",
                query=promql,
            )
        pieces: dict[tuple[tuple[str, str], ...], tuple[list[float], list[float]]] = {}
        for first, last in _chunks(start, end, step):
            for series in self._range(promql, first, last, step):
                times, values = pieces.setdefault(tuple(sorted(series["metric"].items())), ([], []))
                times.extend(float(pair[0]) for pair in series["values"])
                values.extend(float(pair[1]) for pair in series["values"])
        labels = sorted({name for key in pieces for name, _ in key})
        lengths = [len(times) for times, _ in pieces.values()]
        columns: dict[str, Any] = {"time": _flatten(times for times, _ in pieces.values())}
        for label in labels:
            per_series = [dict(key).get(label, "") for key in pieces]
            columns[label] = [value for value, length in zip(per_series, lengths, strict=True) for _ in range(length)]
        columns["value"] = _flatten(values for _, values in pieces.values())
        return pd.DataFrame(columns).astype({"time": "float64", "value": "float64"})

    def _range(self, promql: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        # The library rounds both bounds to whole seconds; parameters given explicitly win over its own.
        exact = {"start": _exact(start), "end": _exact(end)}
        bounds = (datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(end, UTC))
        result: list[dict[str, Any]] = self._ask(
            promql, lambda: self._connection.custom_query_range(promql, *bounds, _exact(step), exact)
        )
        return result

    def _ask(self, promql: str, request: Any) -> Any:
        import requests
        from prometheus_api_client.exceptions import PrometheusApiClientException

        try:
            return request()
        except requests.RequestException as exc:
            raise NoAnswerError(
                f"Prometheus at {self.url} did not answer within {self.timeout_seconds:g} s ({type(exc).__name__}); "
                "'labkit status' tells whether it runs"
            ) from exc
        except PrometheusApiClientException as exc:
            raise _refusal(promql, self.url, str(exc)) from exc


def _refusal(promql: str, url: str, text: str) -> PrometheusError:
    match = _STATUS.match(text)
    if match is None:
        return PrometheusError(f"Prometheus at {url}: {text}")
    body = _unescape(match[2])
    try:
        message = orjson.loads(body)["error"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        kind = NoAnswerError if match[1].startswith("5") else PrometheusError
        return kind(f"Prometheus at {url} answered {match[1]}: {body[:300]}")
    return QueryError(f"Prometheus refused {promql!r}: {message}", query=promql)


def _unescape(literal: str) -> str:
    import ast

    return bytes(ast.literal_eval(literal)).decode(errors="replace")


def _value_and_time(promql: str, series: dict[str, Any]) -> tuple[float, float]:
    if "value" not in series:
        raise QueryError(f"wanted an instant vector from {promql!r}, found a range or a histogram", query=promql)
    time, value = series["value"]
    return float(value), float(time)


def _number(promql: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as exc:
        raise QueryError(f"wanted an instant vector from {promql!r}, found the string {text!r}", query=promql) from exc


def _exact(seconds: float) -> str:
    return f"{seconds:.3f}"


def _chunks(start: float, end: float, step: float) -> Iterator[tuple[float, float]]:
    count = math.floor((end - start) / step + 1e-9) + 1
    for first in range(0, count, POINTS_PER_REQUEST):
        last = min(first + POINTS_PER_REQUEST, count) - 1
        yield start + first * step, start + last * step


def _flatten(lists: Iterator[list[float]]) -> list[float]:
    return [value for values in lists for value in values]
