"""Every command of docs/quickstart.md, verbatim, against a running lab."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from labkit.clock import wait_until
from labkit.cluster import RunningLab
from labkit.names import DESCHEDULER_NAMESPACE

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
FOLLOWS = re.compile(r"( -f| -w)$|port-forward")
"""Commands that go on until they are stopped: they say something, and do not end by themselves."""
PATIENCE_SECONDS = 120.0
GOES_ON_SECONDS = 2.0
SET_UP = ("make up", "eval ")

pytestmark = pytest.mark.live


def commands() -> list[str]:
    """Return the commands of the document in its order, without those that bring the lab up."""
    text = (ROOT / "docs" / "quickstart.md").read_text()
    lines = [line for block in BLOCK.findall(text) for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(("#", *SET_UP))]


@pytest.fixture(scope="module")
def furnished(lab: RunningLab) -> Iterator[RunningLab]:
    """The lab as the document finds it: with the example VMs running."""
    applied = lab.kubectl("apply", "-f", str(ROOT / "k8s" / "example-vms.yaml"))
    assert applied.returncode == 0, applied.stderr
    ready = lab.kubectl(
        "wait", "vm", "--all", "--for=jsonpath={.status.phase}=Running", "--timeout=120s", timeout_seconds=150
    )
    assert ready.returncode == 0, ready.stderr
    wait_until(
        lambda: "evict" in lab.kubectl("logs", "-n", DESCHEDULER_NAMESPACE, "deployment/descheduler").stdout,
        timeout_seconds=PATIENCE_SECONDS,
        what="the descheduler's first cycle",
    )
    yield lab
    # Runs refuse a lab with VMs that no scenario has created.
    gone = lab.kubectl("delete", "vm", "--all")
    assert gone.returncode == 0, gone.stderr


def test_document_has_the_commands() -> None:
    assert len(commands()) >= 15


@pytest.mark.parametrize("command", commands())
def test_command_works_as_it_stands(furnished: RunningLab, command: str) -> None:
    lab = furnished
    # The document speaks of the default address; this lab has one of its own.
    there = command.replace("http://localhost:", f"http://{lab.address}:")
    shell = ["bash", "-euo", "pipefail", "-c", there]
    if FOLLOWS.search(command):
        check_follower(shell, lab.environment)
        return
    done = subprocess.run(
        shell, cwd=ROOT, env=lab.environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def check_follower(shell: list[str], environment: Mapping[str, str]) -> None:
    """Check that a command says something, and goes on until it is stopped."""
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            shell, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        ) as process,
    ):
        assert process.stdout is not None
        try:
            readable, _, _ = select.select([process.stdout], [], [], PATIENCE_SECONDS)
            said = os.read(process.stdout.fileno(), 2**16) if readable else b""
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GOES_ON_SECONDS)
            errors.seek(0)
            assert (process.poll(), bool(said.strip())) == (None, True), errors.read()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
