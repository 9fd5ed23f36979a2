"""The images of the lab's pods: what is in them, building what is missing, and bringing them to the cluster.

An image is named by its content, so a second start finds it in the engine and in the cluster and does nothing, and a
changed service, rule or tool never runs under an old name. The names begin with ``localhost/``: no registry is ever
asked for them.
"""

from __future__ import annotations

import hashlib
import logging
import platform
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from labkit.cluster import tools
from labkit.cluster.config import LabConfig, cache_home
from labkit.cluster.kind import packages
from labkit.cluster.kind.engine import Engine
from labkit.cluster.kind.program import Kind
from labkit.cluster.kind.settings import (
    BASE_VARIABLE,
    DESCHEDULER,
    IMAGES,
    KWOK,
    OWN_VARIABLES,
    PROMETHEUS,
    SERVICES,
    Settings,
)
from labkit.datafiles import data_path
from labkit.errors import ClusterError, ToolError

logger = logging.getLogger(__name__)

Say = Callable[[str], None]

NOT_FOR_SERVICES: Final = (
    "cli", "cluster", "fidelity.py", "lab", "live.py", "plots", "report.py", "results.py", "runner", "sim",
)  # fmt: skip
"""Parts of labkit that services may not import (pyproject.toml holds them to it), so a change there builds nothing."""
_DIGEST_LENGTH: Final = 12
_LOADERS: Final = (b"/ld-linux", b"/ld-musl")
_HEAD_BYTES: Final = 4096
"""A program that needs a dynamic loader names it this early."""


@dataclass(frozen=True)
class Recipe:
    """One image, before it is built.

    Parameters
    ----------
    name : str
        As the manifests name it.
    containerfile : Path
        How it is built.
    files : Mapping of str to Path
        What the build is given: path in its folder, and the file here.
    folders : tuple of str
        Folders of the build that anybody may write to; empty ones would be lost otherwise.
    base : str
        Image that it is built on; empty where there is none.
    requirements : Path, optional
        Python packages to gather.
    """

    name: str
    containerfile: Path
    files: Mapping[str, Path]
    folders: tuple[str, ...] = ()
    base: str = ""
    requirements: Path | None = None
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256("\0".join((self.base, platform.machine(), *self.folders)).encode())
        contents = {"Containerfile": self.containerfile, **self.files}
        if self.requirements is not None:
            contents["requirements"] = self.requirements
        for name in sorted(contents):
            with contents[name].open("rb") as stream:
                digest.update(f"\0{name}\0".encode() + hashlib.file_digest(stream, "sha256").digest())
        object.__setattr__(self, "digest", digest.hexdigest()[:_DIGEST_LENGTH])

    @property
    def tag(self) -> str:
        """Return the name that it has once it is built."""
        return f"localhost/{self.name}-{self.digest}"


def recipes(settings: Settings, *, chosen_tools: str | None = None) -> list[Recipe]:
    """Return how each image is built that is not named by the user.

    Parameters
    ----------
    settings : Settings
        Which images are the user's own, and the base of the services' image.
    chosen_tools : str, optional
        Folder with the user's own programs.

    Raises
    ------
    ToolError
        If a program is missing, or cannot run without the libraries of this machine.
    """
    found = tools.locate(chosen_tools)
    makers: Mapping[str, Callable[[], Recipe]] = {
        SERVICES: lambda: _services(settings.base, _program(found, "promtool")),
        PROMETHEUS: lambda: _prometheus(_program(found, "prometheus")),
        DESCHEDULER: lambda: _one_program(DESCHEDULER, "descheduler", found, folders=("root/tmp",)),
        KWOK: lambda: _one_program(KWOK, "kwok", found),
    }
    return [makers[image]() for image in IMAGES if image not in settings.own]


def ensure(engine: Engine, config: LabConfig, *, say: Say, settings: Settings | None = None) -> dict[str, str]:
    """Have every image of the lab in the engine's store; build or pull what is missing.

    Parameters
    ----------
    engine : Engine
        Who builds.
    config : LabConfig
        Names the user's own tools, if any.
    say : callable
        Told what takes time.
    settings : Settings, optional
        As the environment says, without it.

    Returns
    -------
    dict of str to str
        For each of ``IMAGES`` the name under which it lies in the store.

    Raises
    ------
    ToolError
        If a tool or a package is missing.
    ClusterError
        If the engine cannot build or pull.
    """
    wanted = settings or Settings.from_environment()
    names = dict(wanted.own)
    for image, own in wanted.own.items():
        pull(engine, own, variable=OWN_VARIABLES[image], say=say)
    for recipe in recipes(wanted, chosen_tools=config.tools):
        if not engine.has_image(recipe.tag):
            _build(engine, recipe, say)
        names[recipe.name] = recipe.tag
    return {image: names[image] for image in IMAGES}


def pull(engine: Engine, image: str, *, variable: str, say: Say) -> None:
    """Have an image of somebody else in the engine's store.

    Parameters
    ----------
    engine : Engine
        Who pulls.
    image : str
        Its name; nothing is done where it is there already.
    variable : str
        What the user can set to name another, for the error.
    say : callable
        Told that it takes time.

    Raises
    ------
    ClusterError
        If it cannot be pulled.
    """
    if engine.has_image(image):
        return
    say(f"pulling {image}")
    try:
        engine.run("pull", image, what=f"pulling {image}")
    except ClusterError as exc:
        raise ClusterError(
            f"{exc}: without a way to its registry name a mirror with LABKIT_KIND_REGISTRY or another image with "
            f"{variable}, or bring it with '{engine.name} load'"
        ) from exc


def load(engine: Engine, kind: Kind, cluster: str, names: Collection[str], *, say: Say) -> None:
    """Bring images from the engine's store into each node of a cluster, as far as they are not there.

    Parameters
    ----------
    engine : Engine
        Where they are, and where the nodes run.
    kind : Kind
        The program that does it.
    cluster : str
        Name of the cluster.
    names : collection of str
        Names of the images.
    say : callable
        Told how many it is.

    Raises
    ------
    ClusterError
        If a node does not take them.
    """
    program = Engine(
        kind.program.name, kind.program, kind.version, engine.rootless, engine.cgroup_version,
        {**engine.variables, **engine.environment()},
    )  # fmt: skip
    nodes = program.run("get", "nodes", "--name", cluster, what=f"asking for the nodes of {cluster}").split()
    there = [images_of_node(engine, node) for node in nodes]
    missing = sorted({name for name in names if not all(whole_name(name) in images for images in there)})
    if not missing:
        return
    say(f"loading {len(missing)} {'image' if len(missing) == 1 else 'images'} into the cluster")
    cache_home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="images-", dir=cache_home()) as folder:
        archive = str(Path(folder) / "images.tar")
        form = ("--format", "docker-archive", "--multi-image-archive") if engine.name == "podman" else ()
        try:
            engine.run("save", *form, "-o", archive, *missing, what="saving the images for the cluster")
            program.run("load", "image-archive", "--name", cluster, archive, what="loading the images into the cluster")
        except ClusterError as exc:
            raise ClusterError(
                f"{exc}: see that there is room on the disk ('{engine.name} system df'), and try again"
            ) from exc


def images_of_node(engine: Engine, node: str) -> set[str]:
    """Return the names of the images that a node has."""
    command = ("exec", node, "ctr", "--namespace", "k8s.io", "images", "list", "--quiet")
    return set(engine.run(*command, what=f"asking {node} for its images").split())


def whole_name(name: str) -> str:
    """Return an image's name as a node lists it: with the registry and the tag that people leave out."""
    owner, slash, _ = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif owner != "localhost" and not set(".:") & set(owner):
        name = f"docker.io/{name}"
    return name if set(":@") & set(name.rpartition("/")[2]) else f"{name}:latest"


# --- recipes -------------------------------------------------------------------------------------------------


def _services(base: str, promtool: Path) -> Recipe:
    folder = data_path("k8s", "images", "services")
    files = {"promtool": promtool}
    for package in ("labkit", "services"):
        root = _folder(package)
        skipped = NOT_FOR_SERVICES if package == "labkit" else ()
        files |= {
            f"app/{package}/{path.relative_to(root).as_posix()}": path
            for path in _sources(root)
            if path.relative_to(root).parts[0] not in skipped
        }
    # The scenario controller checks scenarios against the resource's own schema.
    files["app/k8s/crds/simulationscenarios.yaml"] = data_path("k8s", "crds", "simulationscenarios.yaml")
    return Recipe(SERVICES, folder / "Containerfile", files, base=base, requirements=folder / "requirements.txt")


def _prometheus(program: Path) -> Recipe:
    files = {"root/usr/local/bin/prometheus": program}
    pages = tools.pages_folder() / "static"
    for path in sorted(pages.rglob("*")) if pages.is_dir() else ():
        if path.is_file():
            files[f"root/prometheus/web/ui/static/{path.relative_to(pages).as_posix()}"] = path
    containerfile = data_path("k8s", "images", "prometheus", "Containerfile")
    return Recipe(PROMETHEUS, containerfile, files, folders=("root/prometheus/data", "root/tmp"))


def _one_program(image: str, name: str, found: Mapping[str, Path], *, folders: tuple[str, ...] = ()) -> Recipe:
    files = {f"root/usr/local/bin/{name}": _program(found, name)}
    return Recipe(image, data_path("k8s", "images", name, "Containerfile"), files, folders=folders)


def _program(found: Mapping[str, Path], name: str) -> Path:
    path = found.get(name)
    if path is None:
        raise ToolError(
            f"wanted the tool {name} for its image, found none: build it with 'labkit tools' or name a folder that has "
            "it with --tools or LABKIT_TOOLS"
        )
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if any(loader in head for loader in _LOADERS):
        raise ToolError(
            f"wanted a {name} that needs no libraries, for an image that has none, found one that is linked to them at "
            f"{path}: build it with CGO_ENABLED=0, or leave --tools and LABKIT_TOOLS out"
        )
    return path


def _folder(package: str) -> Path:
    """Return where a package of this installation lies."""
    found = find_spec(package)
    if found is None or found.origin is None:
        raise ClusterError(f"wanted the package {package} for the services' image, found none: install labkit again")
    return Path(found.origin).parent


def _sources(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith("."):
            yield path


# --- building ------------------------------------------------------------------------------------------------


def _build(engine: Engine, recipe: Recipe, say: Say) -> None:
    if recipe.base:
        pull(engine, recipe.base, variable=BASE_VARIABLE, say=say)
    say(f"building the image {recipe.name}")
    cache_home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="image-", dir=cache_home()) as name:
        folder = Path(name)
        for path, source in recipe.files.items():
            _place(source, folder / path)
        if recipe.requirements is not None:
            python = packages.python_of(engine, recipe.base)
            origin = packages.gather(recipe.requirements, folder / "packages", python)
            logger.info("packages of %s come from %s", recipe.name, origin)
        _open_to_readers(folder)
        for path in recipe.folders:
            (folder / path).mkdir(parents=True, exist_ok=True)
            (folder / path).chmod(0o1777)
        arguments = ("--build-arg", f"BASE={recipe.base}") if recipe.base else ()
        command = ("build", "--network", "none", *arguments, "--file", str(recipe.containerfile), "--tag", recipe.tag)
        engine.run(*command, str(folder), what=f"building the image {recipe.name}")


def _place(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def _open_to_readers(folder: Path) -> None:
    """Let everybody read, whatever this user's umask: the image's user is not its owner."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
