from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from labkit import versions
from labkit.cluster.kind import engine, program
from labkit.cluster.kind.engine import Engine
from labkit.errors import ClusterError, InputError, ToolError

Write = Callable[[str, str], Path]

DOCKER_INFO: Mapping[str, Any] = {
    "ServerVersion": "28.2.2",
    "OSType": "linux",
    "CgroupVersion": "2",
    "CPUShares": True,
    "MemoryLimit": True,
    "PidsLimit": True,
    "SecurityOptions": ["name=seccomp,profile=builtin"],
    "DockerRootDir": "/var/lib/docker",
}
FULL_MAP = [{"container_id": 0, "host_id": 1000, "size": 1}, {"container_id": 1, "host_id": 100000, "size": 65536}]
PODMAN_HOST: Mapping[str, Any] = {
    "cgroupVersion": "v2",
    "cgroupControllers": ["cpuset", "cpu", "io", "memory", "pids"],
    "security": {"rootless": True},
    "idMappings": {"uidmap": FULL_MAP, "gidmap": FULL_MAP},
    "serviceIsRemote": False,
}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Put a shell script under a name into the folder that is the whole PATH."""

    def put(name: str, script: str) -> Path:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return put


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    return {"PATH": str(tmp_path / "bin")}


def says(value: object, *, kind: str = "Docker") -> str:
    """Return a script that answers ``info`` with JSON and everything else with a version."""
    return f"""case "$1" in
info) /bin/cat <<'JSON'
{json.dumps(value)}
JSON
;;
--version) echo "{kind} version 28.2.2" ;;
esac"""


def podman(**changes: Any) -> str:
    host = {**PODMAN_HOST, **changes}
    version = host.pop("version", "4.3.1")
    value = {"host": host, "version": {"Version": version}, "store": {"graphRoot": "/var/lib/containers/storage"}}
    return says(value, kind="podman")


def test_docker_is_taken_first_where_both_work(write: Write, environ: dict[str, str]) -> None:
    write("docker", says(DOCKER_INFO))
    write("podman", podman())
    found = engine.find(environ)
    assert (found.name, found.version, found.rootless, found.cgroup_version) == ("docker", "28.2.2", False, 2)
    assert found.environment() == {"KIND_EXPERIMENTAL_PROVIDER": "docker"}
    assert found.store == Path("/var/lib/docker")


def test_chosen_provider_is_taken_whatever_else_is_there(write: Write, environ: dict[str, str]) -> None:
    write("docker", says(DOCKER_INFO))
    write("podman", podman())
    found = engine.find({**environ, "KIND_EXPERIMENTAL_PROVIDER": "podman"})
    assert (found.name, found.version, found.rootless) == ("podman", "4.3.1", True)


def test_podman_is_taken_where_docker_has_no_daemon(write: Write, environ: dict[str, str]) -> None:
    write("docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    write("podman", podman())
    assert engine.find(environ).name == "podman"


def test_docker_that_is_podman_under_another_name_is_used_as_podman(write: Write, environ: dict[str, str]) -> None:
    write("docker", podman())
    write("podman", podman())
    assert engine.find(environ).name == "podman"


def test_no_engine_tells_what_to_install_and_the_way_without(write: Write, environ: dict[str, str]) -> None:
    with pytest.raises(ToolError, match=r"wanted a container engine.*found none on PATH.*apt install.*--backend local"):
        engine.find(environ)


def test_other_provider_is_refused_by_name(environ: dict[str, str]) -> None:
    with pytest.raises(InputError, match="docker or podman in KIND_EXPERIMENTAL_PROVIDER, found 'nerdctl'"):
        engine.find({**environ, "KIND_EXPERIMENTAL_PROVIDER": "nerdctl"})


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (
            "echo 'permission denied while trying to connect to the Docker daemon socket' >&2; exit 1",
            r"no right to its socket: 'sudo usermod -aG docker",
        ),
        (
            "echo 'Cannot connect to the Docker daemon at unix:///var/run/docker.sock.' >&2; exit 1",
            r"no daemon that answers at its usual socket: start it with 'sudo systemctl start docker'",
        ),
        # Older clients print what they know and leave with 0.
        (says({"ServerErrors": ["Cannot connect to the Docker daemon at unix:///var/run/docker.sock."]}), "no daemon"),
        (says({**DOCKER_INFO, "ServerVersion": "19.03.15"}), r"wanted docker 20\.10 or newer, found 19\.03\.15"),
        (says({**DOCKER_INFO, "OSType": "windows"}), "Linux containers, found windows"),
        (
            says({**DOCKER_INFO, "SecurityOptions": ["name=rootless"], "CgroupVersion": "1"}),
            r"cgroup v2 for docker without root, found v1",
        ),
        (
            says({**DOCKER_INFO, "SecurityOptions": ["name=rootless"], "CPUShares": False}),
            r"found cpu not delegated: set 'Delegate=yes'",
        ),
    ],
    ids=["no right", "no daemon", "no daemon, old client", "too old", "windows", "rootless v1", "rootless no cpu"],
)
def test_docker_that_cannot_be_used_says_which_need_is_not_met(
    write: Write, environ: dict[str, str], script: str, expected: str
) -> None:
    write("docker", script)
    with pytest.raises(ClusterError, match=expected) as caught:
        engine.find(environ)
    assert "\n" not in str(caught.value)


def test_unanswered_daemon_is_named_where_the_user_named_it(write: Write, environ: dict[str, str]) -> None:
    write("docker", "echo 'Cannot connect to the Docker daemon at tcp://127.0.0.1:1.' >&2; exit 1")
    with pytest.raises(ClusterError, match=r"answers at tcp://127\.0\.0\.1:1: .*correct DOCKER_HOST"):
        engine.find({**environ, "DOCKER_HOST": "tcp://127.0.0.1:1"})


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (podman(cgroupVersion="v1"), r"cgroup v2 for podman without root, found v1"),
        (podman(cgroupControllers=["memory", "pids"]), r"found cpu not delegated"),
        (podman(idMappings={"uidmap": FULL_MAP[:1], "gidmap": FULL_MAP}), r"65536 ids in /etc/subuid.*found 1: "),
        (podman(idMappings={"uidmap": FULL_MAP, "gidmap": FULL_MAP[:1]}), r"/etc/subgid.*--add-subgids"),
        (podman(version="3.4.4"), r"wanted podman 4\.0 or newer, found 3\.4\.4"),
        ("echo 'Cannot connect to Podman. Please verify your connection' >&2; exit 125", "podman machine start"),
        ("echo 'Error: command required for rootless mode: newuidmap: not found' >&2; exit 125", "apt install uidmap"),
        ("echo 'Error: database is locked' >&2; exit 125", r"found: Error: database is locked: 'podman info'"),
    ],
    ids=["v1", "no cpu", "no subuid", "no subgid", "too old", "no machine", "no uidmap", "something else"],
)  # fmt: skip
def test_podman_that_cannot_be_used_says_which_need_is_not_met(
    write: Write, environ: dict[str, str], script: str, expected: str
) -> None:
    write("podman", script)
    with pytest.raises(ClusterError, match=expected) as caught:
        engine.find(environ)
    assert "\n" not in str(caught.value)


def test_podman_as_root_needs_no_delegation(write: Write, environ: dict[str, str]) -> None:
    write("podman", podman(cgroupVersion="v1", cgroupControllers=[], security={"rootless": False}, idMappings={}))
    found = engine.find(environ)
    assert (found.rootless, found.cgroup_version) == (False, 1)


def test_engines_that_both_fail_are_both_told(write: Write, environ: dict[str, str]) -> None:
    write("docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    write("podman", podman(cgroupVersion="v1"))
    with pytest.raises(ClusterError, match=r"wanted to use docker.*; wanted cgroup v2 for podman"):
        engine.find(environ)


def test_engine_that_hangs_is_given_up(write: Write, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "ASK_TIMEOUT_SECONDS", 0.2)
    write("podman", "exec /bin/sleep 30")
    with pytest.raises(ClusterError, match=r"'podman info --format' within 0\.2 s, found none"):
        engine.find(environ)


def test_failed_run_gives_the_last_line_without_colours(write: Write, environ: dict[str, str]) -> None:
    path = write("docker", r"echo one; printf '\033[31mno space left\033[0m\n\n' >&2; exit 3")
    broken = Engine("docker", path, "28.2.2", False, 2, environ)
    with pytest.raises(ClusterError, match=r"^building it failed: no space left$"):
        broken.run("build", what="building it")


def test_run_has_the_environment_in_which_the_engine_was_found(write: Write, environ: dict[str, str]) -> None:
    path = write("docker", 'echo "$1 $DOCKER_HOST"')
    found = Engine("docker", path, "28.2.2", False, 2, {**environ, "DOCKER_HOST": "unix:///x"})
    assert found.run("ps", what="listing") == "ps unix:///x\n"


# --- kind ------------------------------------------------------------------------------------------------


def test_kind_on_path_is_taken_where_it_is_new_enough(write: Write, environ: dict[str, str]) -> None:
    path = write("kind", "echo 'kind v0.33.0 go1.26.7 linux/amd64'")
    assert program.find(environ) == program.Kind(path, "0.33.0")


def test_kind_of_a_lab_is_the_one_that_its_link_leads_to(
    write: Write, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = write("kind", "echo 'kind v0.33.0 go1.26.7 linux/amd64'")
    monkeypatch.setenv("LABKIT_STATE", str(tmp_path / "state"))
    link = tmp_path / "state" / "lab" / "bin" / "kind"
    link.parent.mkdir(parents=True)
    link.symlink_to(path)
    assert program.find({"PATH": f"{link.parent}:{environ['PATH']}"}).program == path


def test_kind_that_is_too_old_is_refused_with_both_versions(write: Write, environ: dict[str, str]) -> None:
    write("kind", "echo 'kind v0.20.0 go1.20.5 linux/amd64'")
    with pytest.raises(ToolError, match=r"wanted kind 0\.32\.0 or newer, found 0\.20\.0 at .*go install sigs\.k8s\.io"):
        program.find(environ)


def test_kind_that_the_user_names_must_be_there(environ: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"cannot run it .*correct LABKIT_KIND_PROGRAM"):
        program.find({**environ, "LABKIT_KIND_PROGRAM": str(tmp_path / "none")})


def test_kind_built_earlier_is_taken_before_the_one_on_path(write: Write, environ: dict[str, str]) -> None:
    write("kind", "echo 'kind v0.20.0'")
    built = program.built_program()
    built.parent.mkdir(parents=True)
    built.touch()
    assert program.locate(environ) == program.Kind(built, versions.KIND)


def test_kind_is_built_with_go_where_there_is_none(
    write: Write, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(
        "go", 'case "$1" in version) echo "go version go1.26.0 linux/amd64";; install) echo "$@" > "$GOBIN/kind";; esac'
    )
    monkeypatch.setenv("PATH", environ["PATH"])
    told: list[str] = []
    found = program.find(environ, say=told.append)
    assert found.program.is_relative_to(tmp_path / "cache")
    assert f"sigs.k8s.io/kind@v{versions.KIND}" in found.program.read_text()
    assert len(told) == 1
    assert program.locate(environ) == found


# --- the real thing --------------------------------------------------------------------------------------


def test_real_podman_is_found_or_says_in_one_line_what_it_lacks() -> None:
    if shutil.which("podman") is None:
        pytest.skip("there is no podman on this machine")
    environ = {**os.environ, "KIND_EXPERIMENTAL_PROVIDER": "podman"}
    if subprocess.run(["podman", "info"], capture_output=True, check=False).returncode:
        with pytest.raises(ClusterError, match=r"^wanted .* found") as caught:
            engine.find(environ)
        assert "\n" not in str(caught.value)
        return
    found = engine.find(environ)
    said = subprocess.run(["podman", "--version"], capture_output=True, text=True, check=True).stdout
    assert said.strip().endswith(found.version)
    assert found.store is None or found.store.is_dir()
    assert not found.has_image("localhost/labkit/nothing:of-that-name")
