import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from labkit.errors import NoSamplesError, PrometheusError, QueryError
from labkit.prometheus import POINTS_PER_REQUEST, Prometheus, Sample


class FakePrometheus:
    """Answers each request with what the test put there; remembers what was asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.answers: list[tuple[int, object]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                outer.requests.append((parts.path, {k: v[0] for k, v in parse_qs(parts.query).items()}))
                status, body = outer.answers[min(len(outer.requests), len(outer.answers)) - 1]
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def fake() -> Iterator[FakePrometheus]:
    server = FakePrometheus()
    yield server
    server.server.shutdown()
    server.server.server_close()


def success(kind: str, result: object) -> tuple[int, object]:
    return 200, {"status": "success", "data": {"resultType": kind, "result": result}}


def vector(*samples: tuple[dict[str, str], str]) -> tuple[int, object]:
    return success("vector", [{"metric": labels, "value": [1.5, value]} for labels, value in samples])


def connect(fake: FakePrometheus, timeout: float = 5.0) -> Prometheus:
    return Prometheus(fake.url + "/", timeout)


def test_query_gives_labels_value_and_time(fake: FakePrometheus) -> None:
    fake.answers = [vector(({"__name__": "up", "instance": "a"}, "0.25"), ({"instance": "b"}, "NaN"))]
    first, second = connect(fake).query("up", time=1700000000.1234)
    assert first == Sample({"__name__": "up", "instance": "a"}, 0.25, 1.5)
    assert second.value != second.value
    assert fake.requests == [("/api/v1/query", {"query": "up", "time": "1700000000.123"})]


def test_query_takes_a_scalar_for_a_sample_without_labels(fake: FakePrometheus) -> None:
    fake.answers = [success("scalar", [2.0, "7"])]
    assert connect(fake).query("7") == [Sample({}, 7.0, 2.0)]


@pytest.mark.parametrize(
    "answer",
    [success("matrix", [{"metric": {}, "values": [[1, "2"]]}]), success("string", [1.0, "text"])],
    ids=["matrix", "string"],
)
def test_query_refuses_what_is_no_instant_vector(fake: FakePrometheus, answer: tuple[int, object]) -> None:
    fake.answers = [answer]
    with pytest.raises(QueryError, match="wanted an instant vector"):
        connect(fake).query("up[1m]")


def test_refused_query_carries_prometheus_own_words(fake: FakePrometheus) -> None:
    fake.answers = [(400, {"status": "error", "errorType": "bad_data", "error": '1:3: parse error: it\'s "x"'})]
    with pytest.raises(QueryError, match='1:3: parse error: it\'s "x"') as caught:
        connect(fake).query("up{")
    assert caught.value.query == "up{"


def test_answer_that_is_not_prometheus_is_named(fake: FakePrometheus) -> None:
    fake.answers = [(502, b"<html>bad gateway</html>")]
    with pytest.raises(PrometheusError, match="answered 502: <html>bad gateway") as caught:
        connect(fake).query("up")
    assert not isinstance(caught.value, QueryError)


def test_unreachable_server_is_named_with_the_next_step(fake: FakePrometheus) -> None:
    fake.server.shutdown()
    fake.server.server_close()
    with pytest.raises(PrometheusError, match=rf"{fake.url} did not answer .*labkit status"):
        connect(fake).query("up")


def test_by_node_keys_on_instance(fake: FakePrometheus) -> None:
    fake.answers = [vector(({"instance": "a"}, "0.1"), ({"instance": "b"}, "0.2"))]
    assert connect(fake).by_node("score") == {"a": 0.1, "b": 0.2}


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (vector(), NoSamplesError, "found none"),
        (vector(({"node": "a"}, "1")), QueryError, "wanted the label 'instance'"),
        (vector(({"instance": "a", "x": "1"}, "1"), ({"instance": "a", "x": "2"}, "1")), QueryError, "several for a"),
    ],
    ids=["no samples", "no instance", "twice"],
)
def test_by_node_refuses(
    fake: FakePrometheus, answer: tuple[int, object], error: type[QueryError], message: str
) -> None:
    fake.answers = [answer]
    with pytest.raises(error, match=message):
        connect(fake).by_node("score")


def test_range_is_tidy_and_keeps_fractions_of_a_second(fake: FakePrometheus) -> None:
    fake.answers = [
        success(
            "matrix",
            [
                {"metric": {"instance": "b", "mode": "idle"}, "values": [[10.25, "1"], [10.5, "+Inf"]]},
                {"metric": {"instance": "a"}, "values": [[10.25, "3"]]},
            ],
        )
    ]
    frame = connect(fake).query_range("x", 10.25, 10.5, 0.25)
    assert list(frame.columns) == ["time", "instance", "mode", "value"]
    assert frame.to_dict("list") == {
        "time": [10.25, 10.5, 10.25],
        "instance": ["b", "b", "a"],
        "mode": ["idle", "idle", ""],
        "value": [1.0, float("inf"), 3.0],
    }
    asked = fake.requests[0][1]
    assert (asked["start"], asked["end"], asked["step"]) == ("10.250", "10.500", "0.250")


def test_range_without_series_is_an_empty_table(fake: FakePrometheus) -> None:
    fake.answers = [success("matrix", [])]
    frame = connect(fake).query_range("x", 0, 60, 15)
    assert frame.empty
    assert list(frame.columns) == ["time", "value"]


def test_long_range_is_asked_in_pieces_without_gap_or_overlap(fake: FakePrometheus) -> None:
    n = POINTS_PER_REQUEST
    fake.answers = [
        success("matrix", [{"metric": {"instance": "a"}, "values": [[0, "1"], [n - 1, "2"]]}]),
        success("matrix", [{"metric": {"instance": "a"}, "values": [[n, "3"]]}]),
    ]
    frame = connect(fake).query_range("x", 0, n, 1)
    bounds = [(float(asked["start"]), float(asked["end"])) for _, asked in fake.requests]
    assert bounds == [(0, n - 1), (n, n)]
    assert frame["value"].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(("start", "end", "step"), [(2, 1, 1), (0, 1, 0), (0, float("nan"), 1)])
def test_senseless_range_is_refused_before_asking(fake: FakePrometheus, start: float, end: float, step: float) -> None:
    with pytest.raises(QueryError, match="wanted start <= end"):
        connect(fake).query_range("x", start, end, step)
    assert fake.requests == []
