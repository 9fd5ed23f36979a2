"""The command ``labkit``: one module per verb.

A verb's module has ``HELP`` (one line), ``add_arguments(parser)`` and ``run(args) -> int``. It imports what
it needs inside ``run``, so that ``labkit --help`` is quick.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from labkit.errors import InputError, LabError

VERBS: Final = (
    "up", "down", "status", "doctor", "env", "logs", "use", "algorithms", "score",
    "run", "experiment", "explain", "import", "results", "report", "metrics", "fidelity", "tools",
)  # fmt: skip
EXIT_FAILURE: Final = 1
EXIT_BAD_INPUT: Final = 2
EXIT_INTERRUPTED: Final = 130


class Verb(Protocol):
    """The shape of a verb's module."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the verb's arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it; return the exit code."""


class _Parser(argparse.ArgumentParser):
    """Answers wrong usage with one line and exit 2."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: {message} (see '{self.prog} --help')\n")


def own_command() -> str:
    """Return what to type for ``labkit`` in this shell: its path, where PATH does not lead to it."""
    if shutil.which("labkit"):
        return "labkit"
    script = Path(sys.executable).with_name("labkit")
    return shlex.quote(str(script)) if script.is_file() else f"{shlex.quote(sys.executable)} -m labkit"


def check_backend_and_tempo(backend: str | None, tempo: int | None) -> None:
    """Check the options of these names where they were given.

    Raises
    ------
    InputError
        If there is no such backend, or the tempo is out of bounds.
    """
    from labkit.experiment import BACKENDS
    from labkit.names import MAX_TEMPO

    if backend not in (None, *BACKENDS):
        raise InputError(f"wanted --backend as one of {', '.join(BACKENDS)}, found {backend!r}")
    if tempo is not None and not 1 <= tempo <= MAX_TEMPO:
        raise InputError(f"wanted --tempo from 1 to {MAX_TEMPO}, found {tempo}")


def verb_module(verb: str) -> Verb:
    """Return the module of a verb; ``import`` is a word of Python, so its module is ``import_``."""
    name = f"{verb}_" if verb == "import" else verb
    module: Verb = importlib.import_module(f"labkit.cli.{name}")
    return module


def build_parser(wanted: Sequence[str] = VERBS) -> argparse.ArgumentParser:
    """Build the parser, with the arguments of the wanted verbs (of all of them for the overview)."""
    parser = _Parser(prog="labkit", description=importlib.import_module("labkit").__doc__)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_Parser)
    for verb in wanted:
        module = verb_module(verb)
        module.add_arguments(verbs.add_parser(verb, help=module.HELP, description=module.HELP))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, 1 (something failed), 2 (bad input) or 130 (Ctrl-C)."""
    words = list(sys.argv[1:] if argv is None else argv)
    wanted = words[:1] if words and words[0] in VERBS else VERBS
    try:
        args = build_parser(wanted).parse_args(words)
        return verb_module(args.verb).run(args)
    except InputError as error:
        print(f"labkit: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except LabError as error:
        print(f"labkit: {error}", file=sys.stderr)
        return EXIT_FAILURE
    except KeyboardInterrupt:
        print("labkit: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return EXIT_FAILURE
    except OSError as error:  # the machine's, such as a full disk; what can be said better is said where it happens
        print(f"labkit: {error}", file=sys.stderr)
        return EXIT_FAILURE
