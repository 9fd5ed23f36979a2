from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from labkit.cluster.ports import check_free, holder_of, is_free, lab_ports, taken_ports
from labkit.errors import ClusterError
from labkit.names import API_SERVER_PORT, EVICTION_WEBHOOK_PORT, EXPORTER_HOST_PORT, EXPORTER_PORT, PROMETHEUS_PORT

ADDRESS = "127.0.0.99"


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server((ADDRESS, 0)) as server:
        yield server.getsockname()[1]


def test_taken_port_is_named_with_its_purpose_and_holder(taken: int) -> None:
    with pytest.raises(ClusterError) as error:
        check_free(ADDRESS, {"prometheus": taken})
    assert f"{taken} (for prometheus)" in str(error.value)
    assert f"(pid {os.getpid()})" in str(error.value)
    assert "--address" in str(error.value)


def test_port_taken_at_every_address_is_taken_here_too() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        assert not is_free(ADDRESS, port)
        assert f"(pid {os.getpid()})" in str(holder_of(ADDRESS, port))


def test_port_taken_at_another_address_is_free_here(taken: int) -> None:
    assert is_free("127.0.0.98", taken)
    assert taken_ports("127.0.0.98", {"prometheus": taken}) == []


def test_holder_is_the_one_at_this_address(taken: int) -> None:
    assert f"(pid {os.getpid()})" in str(holder_of(ADDRESS, taken))
    assert holder_of("127.0.0.98", taken) is None
    assert holder_of(ADDRESS, 1) is None


def test_address_of_no_interface_is_a_clear_error() -> None:
    with pytest.raises(ClusterError, match="another --address"):
        is_free("192.0.2.1", 9090)


def test_every_port_of_the_lab_is_asked_for_once_and_below_the_ephemeral_ones() -> None:
    ports = list(lab_ports().values())
    assert len(set(ports)) == len(ports)
    assert all(1024 < port < 32768 for port in ports)
    assert {PROMETHEUS_PORT, EXPORTER_PORT, EXPORTER_HOST_PORT, EVICTION_WEBHOOK_PORT, API_SERVER_PORT} <= set(ports)
