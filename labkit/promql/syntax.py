"""The syntax of PromQL: what ``promql-parser`` leaves to its users.

It names no positions, its enumerations cannot be hashed, and regular expressions are Go's, not Python's.
"""

from __future__ import annotations

import functools
import re
from typing import Final

import promql_parser as ast

from labkit.errors import RuleError

__all__ = ["UnsupportedError", "compile_pattern", "match_operator", "offset_of", "parse"]


class UnsupportedError(RuleError):
    """An expression asks for something that is not supported or not valid.

    Parameters
    ----------
    message : str
        What was found and what is possible instead.
    offset : int or None
        Where in the expression's text, counted from 0; None where that is not known.
    """

    def __init__(self, message: str, *, offset: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset


_MATCH_OPERATORS: Final = (
    (ast.MatchOp.Equal, "="),
    (ast.MatchOp.NotEqual, "!="),
    (ast.MatchOp.Re, "=~"),
    (ast.MatchOp.NotRe, "!~"),
)
_TOKENS: Final = re.compile(r"[\w:.]+|\S")
_STRINGS: Final = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|`[^`]*`|#[^\n]*')
_NOT_GO: Final = re.compile(r"(?<!\\)(?:\(\?(?:[=!>#<]|P[=>])|\\[1-9Z]|\[\[:|(?<!\[)[*+?}]\+)")
"""What Python's regular expressions know and Go's do not, or know otherwise."""


def parse(text: str) -> ast.Expr:
    """Parse an expression.

    Raises
    ------
    UnsupportedError
        If it is not PromQL; tells where, as far as that can be found out.
    """
    try:
        return ast.parse(text)
    except ValueError as exc:
        raise UnsupportedError(f"wanted a PromQL expression; {exc}", offset=_error_offset(text, str(exc))) from exc


def match_operator(matcher: ast.Matcher) -> str:
    """Return how a matcher is written: ``=``, ``!=``, ``=~`` or ``!~``."""
    return next(text for kind, text in _MATCH_OPERATORS if kind == matcher.op)


@functools.lru_cache(maxsize=256)
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a regular expression of Go's syntax, to be matched in full.

    Raises
    ------
    re.error
        If it is not understood, or means something else to Python than to Go.
    """
    foreign = _NOT_GO.search(pattern)
    if foreign is not None:
        raise re.error(f"{foreign.group()} is not known to both Go and Python")
    return re.compile(pattern, re.DOTALL | re.ASCII)


def offset_of(pattern: str, text: str) -> int | None:
    """Return where a construct first occurs in an expression, outside strings and comments."""
    found = re.search(pattern, _blanked(text))
    return None if found is None else found.start()


def _blanked(text: str) -> str:
    """Return an expression with its strings and comments turned to blanks."""
    return _STRINGS.sub(lambda found: " " * len(found.group()), text)


def _error_offset(text: str, message: str) -> int | None:
    """Return where an expression stops being PromQL; the parser itself does not tell.

    A function that the message names is looked for. Otherwise it is what follows the longest beginning that
    is PromQL, or else the first bracket that is never closed.
    """
    named = re.search(r"'(\w+)'", message)
    if named is not None:
        return offset_of(rf"\b{named[1]}\b", text)
    tokens = list(_TOKENS.finditer(_blanked(text)))
    for token in reversed(tokens):
        try:
            ast.parse(text[: token.start()])
        except ValueError:
            continue
        return token.start()
    opened: list[int] = []
    for token in tokens:
        if token.group() in ("(", "[", "{"):
            opened.append(token.start())
        elif token.group() in (")", "]", "}") and opened:
            opened.pop()
    return opened[-1] if opened else None
