from __future__ import annotations

import re
from pathlib import Path

import pytest

from labkit import versions

GO_MOD = Path(__file__).parent.parent / "tools" / "go.mod"


@pytest.mark.parametrize(
    ("module", "version"),
    [
        ("k8s.io/kubernetes", versions.KUBERNETES),
        ("go.etcd.io/etcd/server/v3", versions.ETCD),
        ("sigs.k8s.io/kwok", versions.KWOK),
        ("sigs.k8s.io/descheduler", versions.DESCHEDULER),
        ("github.com/prometheus/prometheus", versions.PROMETHEUS_MODULE),
    ],
)
def test_go_module_pins_the_same_version(module: str, version: str) -> None:
    pinned = re.search(rf"^\s*{re.escape(module)} v(\S+)", GO_MOD.read_text(), re.MULTILINE)
    assert pinned is not None
    assert pinned[1] == version
