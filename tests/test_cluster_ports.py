from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from labkit.cluster.ports import LAB_PORTS, check_free, holder_of, is_free, taken_ports
from labkit.errors import ClusterError

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
        assert not is_free(ADDRESS, server.getsockname()[1])


def test_port_taken_at_another_address_is_free_here(taken: int) -> None:
    assert is_free("127.0.0.98", taken)
    assert taken_ports("127.0.0.98", {"prometheus": taken}) == []


def test_nobody_holds_a_free_port(taken: int) -> None:
    assert holder_of(taken) is not None
    assert holder_of(1) is None


def test_address_of_no_interface_is_a_clear_error() -> None:
    with pytest.raises(ClusterError, match="another --address"):
        is_free("192.0.2.1", 9090)


def test_every_port_of_the_lab_is_asked_for_once_and_below_the_ephemeral_ones() -> None:
    assert len(set(LAB_PORTS.values())) == len(LAB_PORTS)
    assert all(1024 < port < 32768 for port in LAB_PORTS.values())
