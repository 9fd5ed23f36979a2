"""Options and fixtures shared by every test."""

from __future__ import annotations

import signal

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--live", action="store_true", help="run the tests on the real components too")
    parser.addoption("--backend", default="local", choices=("local", "kind"), help="backend of the live tests")


def pytest_configure() -> None:
    # Whoever runs the tests in the background may ignore Ctrl-C, and the processes that a test makes would, too.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--live"):
        return
    skip = pytest.mark.skip(reason="needs the real components: run with --live")
    for item in items:
        if item.get_closest_marker("live"):
            item.add_marker(skip)
