"""Where the files that are no Python lie: manifests, rules, experiments, notebooks, tools.

A checkout has them beside the package; an installed package has them under ``share/labkit`` of its environment.
"""

from __future__ import annotations

import site
import sysconfig
from pathlib import Path
from typing import Final

from labkit.errors import InputError

_MARKER: Final = "k8s"


def data_path(*parts: str) -> Path:
    """Return the path of a file or folder that came with the lab, such as ``data_path("k8s", "crds")``.

    Raises
    ------
    InputError
        If there is none.
    """
    installed = [Path(folder) / "share" / "labkit" for folder in (sysconfig.get_path("data"), site.getuserbase())]
    roots = (Path(__file__).resolve().parent.parent, *installed)
    for root in roots:
        path = root.joinpath(*parts)
        if (root / _MARKER).is_dir() and path.exists():
            return path
    looked = ", ".join(str(root) for root in roots)
    raise InputError(f"wanted {'/'.join(parts)} of the lab's files, found none in {looked}: install labkit anew")
