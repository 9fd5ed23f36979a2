"""Every command of docs/quickstart.md, verbatim, against a running lab."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from labkit.cluster import RunningLab

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
FOLLOWS = re.compile(r"( -f| -w)$|port-forward")
"""Commands that go on until they are stopped: they must have said something by then."""
FOLLOW_SECONDS = 6.0
SET_UP = ("make up", "eval ")

pytestmark = pytest.mark.live


def commands() -> list[str]:
    """Return the commands of the document in its order, without those that bring the lab up."""
    text = (ROOT / "docs" / "quickstart.md").read_text()
    lines = [line for block in BLOCK.findall(text) for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(("#", *SET_UP))]


@pytest.fixture(scope="module")
def furnished(lab: RunningLab) -> RunningLab:
    """The lab as the document finds it: with the example VMs running."""
    applied = lab.kubectl("apply", "-f", str(ROOT / "k8s" / "example-vms.yaml"))
    assert applied.returncode == 0, applied.stderr
    ready = lab.kubectl("wait", "vm", "--all", "--for=jsonpath={.status.phase}=Running", "--timeout=60s")
    assert ready.returncode == 0, ready.stderr
    return lab


def test_document_has_the_commands() -> None:
    assert len(commands()) >= 15


@pytest.mark.parametrize("command", commands())
def test_command_works_as_it_stands(furnished: RunningLab, command: str) -> None:
    lab = furnished
    # The document speaks of the default address; this lab has one of its own.
    there = command.replace("http://localhost:", f"http://{lab.address}:")
    shell = ["bash", "-euo", "pipefail", "-c", there]
    if FOLLOWS.search(command):
        shell = ["timeout", str(FOLLOW_SECONDS), *shell]
    done = subprocess.run(shell, cwd=ROOT, env=lab.environment, capture_output=True, text=True, timeout=90, check=False)
    if FOLLOWS.search(command):
        assert done.returncode == 124, done.stderr
    else:
        assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
