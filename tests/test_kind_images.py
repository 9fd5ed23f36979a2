from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
import yaml

from labkit.cluster.config import LabConfig
from labkit.cluster.kind import images, packages, settings
from labkit.cluster.kind.engine import Engine
from labkit.cluster.kind.packages import Python
from labkit.cluster.kind.program import Kind
from labkit.cluster.kind.settings import DESCHEDULER, IMAGES, KWOK, PROMETHEUS, SERVICES, Settings
from labkit.errors import ClusterError, InputError, ToolError

ROOT = Path(__file__).parent.parent
REQUIREMENTS = ROOT / "k8s" / "images" / "services" / "requirements.txt"
TOOLS = ("prometheus", "promtool", "descheduler", "kwok")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LABKIT_TOOLS", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def tools(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs in the place of those that the lab built."""
    folder = cache / "built"
    folder.mkdir(parents=True)
    for name in TOOLS:
        script(folder / name, f"echo {name}")
    monkeypatch.setattr(images.tools, "built_folder", lambda: folder)
    return folder


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """An engine that stores nothing but names: every call is in ``calls``, every image in ``store``."""
    program = script(
        tmp_path / "docker",
        f"""cd {tmp_path}
echo "$*" >> calls
case "$1" in
image) grep -qx -- "$5" store ;;
pull) case "$2" in *nowhere*) echo "manifest unknown" >&2; exit 1 ;; *) echo "$2" >> store ;; esac ;;
run) echo '[[3, 11], "{os.uname().machine}", ["glibc", "2.36"]]' ;;
build)
  for last; do :; done
  rm -rf built; cp -a "$last" built
  while [ "$1" != --tag ]; do shift; done
  echo "$2" >> store ;;
exec) echo docker.io/library/other:1; cat node ;;
save) : ;;
esac""",
    )
    for name in ("store", "calls", "node"):
        (tmp_path / name).touch()
    return Engine("docker", program, "28.2.2", False, 2, {"PATH": os.environ["PATH"]})


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def calls(tmp_path: Path, verb: str) -> list[str]:
    return [line for line in (tmp_path / "calls").read_text().splitlines() if line.startswith(verb)]


def recipe(name: str, own: Settings | None = None) -> images.Recipe:
    return next(recipe for recipe in images.recipes(own or Settings()) if recipe.name == name)


# --- names -----------------------------------------------------------------------------------------------


def test_manifests_name_the_images_that_are_built() -> None:
    named = set()
    for file in (ROOT / "k8s").glob("*/deployment.yaml"):
        spec = yaml.safe_load(file.read_text())["spec"]["template"]["spec"]
        named |= {container["image"] for container in (*spec["containers"], *spec.get("initContainers", ()))}
    assert named == set(IMAGES) - {KWOK}


def test_image_is_named_by_its_content(tools: Path) -> None:
    before = {recipe.name: recipe.tag for recipe in images.recipes(Settings())}
    assert all(tag.startswith(f"localhost/{name}-") for name, tag in before.items())
    assert {recipe.name: recipe.tag for recipe in images.recipes(Settings())} == before
    script(tools / "promtool", "echo another")
    after = {recipe.name: recipe.tag for recipe in images.recipes(Settings())}
    assert {name for name in before if before[name] != after[name]} == {SERVICES}


def test_base_image_is_part_of_the_name(tools: Path) -> None:
    other = Settings(base="somebody/python:3.12")
    assert recipe(SERVICES).tag != recipe(SERVICES, other).tag
    assert recipe(PROMETHEUS).tag == recipe(PROMETHEUS, other).tag


def test_environment_names_every_image() -> None:
    chosen = Settings.from_environment(
        {
            "LABKIT_KIND_NODE_IMAGE": "a/node:1",
            "LABKIT_KIND_BASE_IMAGE": "a/python:1",
            "LABKIT_KIND_DESCHEDULER_IMAGE": "a/descheduler:1",
            "LABKIT_KIND_KWOK_IMAGE": "",
        }
    )
    assert chosen == Settings("a/node:1", "a/python:1", {DESCHEDULER: "a/descheduler:1"})


def test_mirror_stands_before_public_names_only() -> None:
    chosen = Settings.from_environment(
        {"LABKIT_KIND_REGISTRY": "mirror.example:5000/", "LABKIT_KIND_KWOK_IMAGE": "a/kwok:1"}
    )
    assert chosen.node == f"mirror.example:5000/{settings.NODE_IMAGE}"
    assert chosen.base == f"mirror.example:5000/library/{settings.BASE_IMAGE}"
    assert chosen.own == {KWOK: "a/kwok:1"}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LABKIT_KIND_REGISTRY", "https://mirror.example"),
        ("LABKIT_KIND_NODE_IMAGE", "kindest/node v1"),
        ("LABKIT_KIND_BASE_IMAGE", "--privileged"),
    ],
)
def test_value_that_can_be_no_name_is_refused_with_its_variable(variable: str, value: str) -> None:
    with pytest.raises(InputError, match=variable):
        Settings.from_environment({variable: value})


# --- what is in them -------------------------------------------------------------------------------------


def test_services_image_leaves_out_what_services_may_not_import() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    forbidden = next(c for c in contracts if c["name"].startswith("Services use only"))["forbidden_modules"]
    assert sorted(f"labkit.{name.removesuffix('.py')}" for name in images.NOT_FOR_SERVICES) == sorted(forbidden)


def test_services_image_has_services_labkit_and_promtool_alone(tools: Path) -> None:
    files = recipe(SERVICES).files
    assert {name.split("/")[0] for name in files} == {"app", "promtool"}
    assert "app/services/exporter/__main__.py" in files
    assert "app/labkit/kube.py" in files
    assert not [name for name in files if name.startswith("app/labkit/cluster/") or name.endswith(".pyc")]


def test_services_image_holds_what_the_lock_pins() -> None:
    lock = packages.pinned(ROOT / "requirements.txt")
    pins = packages.pinned(REQUIREMENTS)
    assert pins.items() <= lock.items()
    assert len(pins) < len(lock) / 2


def test_services_run_on_their_packages_alone(tools: Path, tmp_path: Path) -> None:
    for name in packages.pinned(REQUIREMENTS):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
            target = tmp_path / "packages" / top
            target.parent.mkdir(exist_ok=True)
            if not target.exists():
                target.symlink_to(Path(str(distribution.locate_file(top))))
    for path, source in recipe(SERVICES).files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).symlink_to(source)
    line = next(line for line in containerfile(SERVICES).splitlines() if "walk_packages" in line)
    code = line.split('python -c "')[1].split('"')[0]
    standard = [sysconfig.get_path("stdlib"), f"{sysconfig.get_path('stdlib')}/lib-dynload"]
    paths = [str(tmp_path / "app"), str(tmp_path / "packages")]
    start = f"import sys; sys.path[:] = {[*paths, *standard]!r}; sys.dont_write_bytecode = True; {code}"
    answer = subprocess.run(
        [sys.executable, "-S", "-I", "-c", start], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (answer.returncode, answer.stderr) == (0, "")


@pytest.mark.parametrize("name", IMAGES)
def test_containers_run_as_a_numeric_user_without_root(name: str) -> None:
    user = [line.split()[1] for line in containerfile(name).splitlines() if line.startswith("USER ")]
    assert user == ["65532:65532"]


def containerfile(name: str) -> str:
    folder = name.removeprefix("labkit/").partition(":")[0]
    return (ROOT / "k8s" / "images" / folder / "Containerfile").read_text()


def test_program_that_needs_libraries_is_refused_for_an_image_without(tools: Path) -> None:
    (tools / "kwok").write_bytes(b"\x7fELF" + bytes(600) + b"/lib64/ld-linux-x86-64.so.2\0")
    with pytest.raises(ToolError, match=r"a kwok that needs no libraries.*CGO_ENABLED=0"):
        images.recipes(Settings())


def test_missing_tool_is_named(tools: Path) -> None:
    (tools / "descheduler").unlink()
    with pytest.raises(ToolError, match="the tool descheduler for its image, found none: build it with 'labkit tools'"):
        images.recipes(Settings())
    assert len(images.recipes(Settings(own={DESCHEDULER: "a/descheduler:1"}))) == len(IMAGES) - 1


# --- building --------------------------------------------------------------------------------------------


def test_second_time_builds_nothing(engine: Engine, tools: Path, tmp_path: Path, skip_packages: None) -> None:
    told: list[str] = []
    names = images.ensure(engine, LabConfig(), say=told.append, settings=Settings())
    assert set(names) == set(IMAGES)
    assert [line for line in told if line.startswith("building")] == [f"building the image {name}" for name in IMAGES]
    assert images.ensure(engine, LabConfig(), say=told.append, settings=Settings()) == names
    assert len(calls(tmp_path, "build")) == len(IMAGES)


def test_build_needs_no_network_and_gives_readable_files(
    engine: Engine, tools: Path, tmp_path: Path, skip_packages: None
) -> None:
    own = {name: f"a/{name}" for name in IMAGES if name != DESCHEDULER}
    (tools / "descheduler").chmod(0o700)
    images.ensure(engine, LabConfig(), say=print, settings=Settings(own=own))
    (build,) = calls(tmp_path, "build")
    assert build.startswith("build --network none ")
    assert (tmp_path / "built" / "root" / "usr/local/bin/descheduler").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "built" / "root" / "tmp").stat().st_mode & 0o7777 == 0o1777


def test_own_image_is_pulled_once_and_used_as_it_is(
    engine: Engine, tools: Path, tmp_path: Path, skip_packages: None
) -> None:
    chosen = Settings(own={DESCHEDULER: "mirror.example/descheduler:v0.36.0"})
    for _ in range(2):
        names = images.ensure(engine, LabConfig(), say=lambda line: None, settings=chosen)
        assert names[DESCHEDULER] == "mirror.example/descheduler:v0.36.0"
    assert calls(tmp_path, "pull mirror") == ["pull mirror.example/descheduler:v0.36.0"]


def test_image_that_cannot_be_pulled_names_mirror_and_variable(engine: Engine) -> None:
    with pytest.raises(ClusterError, match=r"manifest unknown: .*LABKIT_KIND_REGISTRY.*LABKIT_KIND_NODE_IMAGE"):
        images.pull(engine, "nowhere/node:1", variable="LABKIT_KIND_NODE_IMAGE", say=lambda line: None)


@pytest.fixture
def skip_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the packages out where a test is not about them: they are 150 MB."""
    monkeypatch.setattr(packages, "gather", lambda requirements, target, python: target.mkdir())


# --- packages --------------------------------------------------------------------------------------------


def test_same_python_takes_the_packages_of_this_environment(tmp_path: Path, small_pins: Path) -> None:
    assert packages.gather(small_pins, tmp_path / "packages", packages.python_here()) == "this environment"
    copied = {path.name for path in (tmp_path / "packages").iterdir()}
    assert "waitress" in copied
    assert not list((tmp_path / "packages").rglob("__pycache__"))
    assert not (tmp_path / "bin").exists()


def test_other_version_of_a_package_is_no_match(small_pins: Path) -> None:
    pins = packages.pinned(small_pins)
    assert packages.differing(pins) == []
    assert packages.differing({**pins, "waitress": "0.1"}) == ["waitress"]
    assert packages.differing({"no-such-package": "1.0"}) == ["no-such-package"]


@pytest.fixture
def small_pins(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.txt"
    path.write_text(f"waitress=={importlib.metadata.version('waitress')} \\\n    --hash=sha256:00\n")
    return path


def test_pip_failure_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    pins = tmp_path / "requirements.txt"
    pins.write_text(f"waitress==3.0.2 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(ToolError, match=r"packages for Python 3\.99 .*LABKIT_KIND_BASE_IMAGE"):
        packages.gather(pins, tmp_path / "packages", Python((3, 99), "x86_64", (2, 36)))


def test_wheels_are_asked_for_by_what_the_base_can_load() -> None:
    debian = Python((3, 11), "x86_64", (2, 36)).platforms()
    assert debian[0] == "manylinux_2_36_x86_64"
    assert {"manylinux2014_x86_64", "manylinux_2_17_x86_64", "linux_x86_64"} <= set(debian)
    assert Python((3, 12), "aarch64", None).platforms()[0] == "musllinux_1_2_aarch64"


@pytest.mark.parametrize(
    "other",
    [Python((3, 12), "x86_64", (2, 36)), Python((3, 11), "aarch64", (2, 36)), Python((3, 11), "x86_64", None)],
    ids=["version", "machine", "library"],
)
def test_packages_of_another_python_are_not_copied(other: Python) -> None:
    assert not other.can_load_packages_of(Python((3, 11), "x86_64", (2, 36)))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("""echo '[[3, 9], "x86_64", ["glibc", "2.31"]]'""", r"Python 3\.11 or newer in the base image b, found 3\.9"),
        ("echo 'exec: \"python3\": not found' >&2; exit 127", r"python3 in the base image b.*LABKIT_KIND_BASE_IMAGE"),
    ],
    ids=["too old", "none"],
)  # fmt: skip
def test_base_without_a_python_that_will_do_is_refused(tmp_path: Path, answer: str, expected: str) -> None:
    broken = Engine("docker", script(tmp_path / "docker", answer), "28.2.2", False, 2, {"PATH": os.environ["PATH"]})
    with pytest.raises(ToolError, match=expected):
        packages.python_of(broken, "b")


# --- loading ---------------------------------------------------------------------------------------------


def test_only_what_a_node_lacks_is_loaded(engine: Engine, kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "node").write_text("localhost/labkit/kwok:0.8.0-1\n")
    names = ["localhost/labkit/kwok:0.8.0-1", "localhost/labkit/services:0.1.0-1"]
    images.load(engine, kind, "lab", names, say=lambda line: None)
    (save,) = calls(tmp_path, "save")
    assert save.split()[3:] == ["localhost/labkit/services:0.1.0-1"]
    (tmp_path / "node").write_text("\n".join(names) + "\n")
    images.load(engine, kind, "lab", names, say=lambda line: None)
    assert len(calls(tmp_path, "save")) == 1


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("mine", "docker.io/library/mine:latest"),
        ("me/services:1", "docker.io/me/services:1"),
        ("localhost/services", "localhost/services:latest"),
        ("mirror.example:5000/services", "mirror.example:5000/services:latest"),
        ("me/services@sha256:0f", "docker.io/me/services@sha256:0f"),
    ],
)
def test_node_lists_an_image_by_its_whole_name(name: str, whole: str) -> None:
    assert images.whole_name(name) == whole


def test_own_image_of_a_short_name_is_loaded_once(engine: Engine, kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "node").write_text("docker.io/me/services:1\n")
    images.load(engine, kind, "lab", ["me/services:1"], say=lambda line: None)
    assert not calls(tmp_path, "save")


def test_podman_saves_several_images_in_the_form_that_kind_reads(engine: Engine, kind: Kind, tmp_path: Path) -> None:
    as_podman = Engine("podman", engine.program, "4.3.1", False, 2, engine.variables)
    images.load(as_podman, kind, "lab", ["localhost/a:1", "localhost/b:1"], say=lambda line: None)
    (save,) = calls(tmp_path, "save")
    assert "--format docker-archive --multi-image-archive" in save
    assert (tmp_path / "provider").read_text() == "podman\n"


def test_failed_load_says_what_to_look_at(engine: Engine, kind: Kind) -> None:
    script(
        kind.program, 'case "$1" in get) echo lab-control-plane ;; *) echo "ERROR: failed to load" >&2; exit 1 ;; esac'
    )
    with pytest.raises(ClusterError, match=r"loading the images into the cluster failed: ERROR.*docker system df"):
        images.load(engine, kind, "lab", ["localhost/a:1"], say=lambda line: None)


@pytest.fixture
def kind(tmp_path: Path) -> Kind:
    provider = f"echo $KIND_EXPERIMENTAL_PROVIDER > {tmp_path}/provider"
    text = f'case "$1" in get) echo lab-control-plane ;; load) {provider} ;; esac'
    return Kind(script(tmp_path / "kind", text), "0.33.0")
