import pytest

from labkit.cluster.algorithm import cycle_fault, query_of
from labkit.errors import InputError

GOOD = 'I1123 descheduler.go:252] "Number of evictions/requests" totalEvicted=0 evictionRequests=0'
BAD = 'E1123 descheduler.go:300] "running balance extension point failed with error" err="no sample" profile="p"'
FEW = 'I1123 descheduler.go:281] "Skipping descheduling cycle: requires >=2 nodes" found=1'


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], None),
        (["I1123 starting"], None),
        ([BAD], None),
        (["I1123 starting", GOOD], ""),
        ([BAD, GOOD], BAD),
        ([FEW, GOOD], FEW),
        ([BAD, GOOD, "I1123 classified", GOOD], ""),
        ([GOOD, BAD, GOOD], BAD),
        ([GOOD, BAD], ""),
    ],
    ids=["empty", "no cycle", "in it", "good", "failed", "one node", "failed then good", "good then failed", "in next"],
)
def test_last_cycle_of_the_log(lines: list[str], expected: str | None) -> None:
    assert cycle_fault("\n".join(lines)) == expected


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("euclidean_distance", "descheduler:node:euclidean_distance:avg1m"),
        ("descheduler:node:euclidean_distance:score", "descheduler:node:euclidean_distance:score"),
        ("production_k3", "descheduler:node:linear_amplified_ideal_point_positive_distance:k3:avg1m"),
        ("query: max by (instance) (up)", "max by (instance) (up)"),
    ],
    ids=["name", "record", "production", "own query"],
)
def test_query_of_a_name(name: str, query: str) -> None:
    assert query_of(name) == query


def test_unknown_name_gets_a_hint() -> None:
    with pytest.raises(InputError, match="did you mean euclidean_distance"):
        query_of("euclidian_distance")
