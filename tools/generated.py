"""Files that are made from others: ``make update`` writes them, ``make verify`` fails where one is out of date.

A generator is a module whose ``main(["--write"])`` writes its files and whose ``main(["--check"])`` returns 1 and says
which file differs; :func:`write_or_check` does both for all of them. Each is listed here once.
"""

from __future__ import annotations

import argparse
import importlib
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
GENERATORS: Final[tuple[str, ...]] = (
    "tools.algorithm_tables",
    "tools.grafana_dashboards",
    "tools.metric_table",
    "tools.service_requirements",
)


def write_or_check(
    about: str | None,
    rendered: Callable[[], Mapping[Path, str]],
    argv: Sequence[str] | None,
    *,
    same: Callable[[str, str], bool] = operator.eq,
) -> int:
    """Be the ``main`` of a generator: write its files, or tell which is out of date.

    Parameters
    ----------
    about : str or None
        The generator's own text, for ``--help``.
    rendered : callable
        Makes what each file should hold.
    argv : sequence of str, optional
        ``--write`` or ``--check``; the command line's without it.
    same : callable
        Whether what a file holds is as good as what it should hold.
    """
    mode, code = _mode(about, argv), 0
    for path, text in rendered().items():
        if mode == "--write":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or not same(path.read_text(encoding="utf-8"), text):
            sys.stderr.write(f"{path.relative_to(ROOT)} is out of date: run 'make update'\n")
            code = 1
    return code


def _mode(about: str | None, argv: Sequence[str] | None) -> str:
    """Return ``--write`` or ``--check``, whichever was asked for."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group(required=True)
    for name in ("--write", "--check"):
        mode.add_argument(name, action="store_const", dest="mode", const=name)
    chosen: str = parser.parse_args(argv).mode
    return chosen


def main(argv: Sequence[str] | None = None) -> int:
    """Run every generator in the mode asked for."""
    mode = _mode(__doc__, argv)
    return max((importlib.import_module(name).main([mode]) for name in GENERATORS), default=0)


if __name__ == "__main__":
    sys.exit(main())
