"""What pyproject.toml cannot say: whole folders that are no Python go to ``share/labkit`` of the environment.

``labkit.datafiles`` finds them there; in a checkout, and in an editable install, it finds them where they are.
"""

from pathlib import Path

from setuptools import setup

FOLDERS = ("algorithms", "experiments", "k8s", "notebooks", "rules", "tools")


def data_files() -> list[tuple[str, list[str]]]:
    """Return every folder with the files in it."""
    found: dict[str, list[str]] = {}
    for folder in FOLDERS:
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file() and not {"__pycache__", ".ipynb_checkpoints"} & set(path.parts):
                found.setdefault(f"share/labkit/{path.parent}", []).append(str(path))
    return list(found.items())


setup(data_files=data_files())
