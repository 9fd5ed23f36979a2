"""Ask promtool, Prometheus' own checker, about a rule file."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from labkit.errors import ToolError

TIMEOUT_SECONDS: Final = 8.0
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def check(text: str) -> str | None:
    """Return what promtool finds wrong with the text of a rule file, or None.

    Raises
    ------
    ToolError
        If promtool cannot be run or does not answer.

    Notes
    -----
    Duplicates are not left to it: it takes them for a matter of style, and sees one file at a time.
    """
    with tempfile.TemporaryDirectory(prefix="rules-") as folder:
        file = Path(folder) / "rules.yaml"
        file.write_text(text)
        try:
            done = subprocess.run(
                ["promtool", "check", "rules", "--lint=none", file],
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise ToolError(f"wanted promtool's opinion of the rules, found: {exc}") from exc
    return None if done.returncode == 0 else _message(done.stdout + "\n" + done.stderr, file)


def _message(output: str, file: Path) -> str:
    """Return promtool's own words without its headings and the name of the temporary file."""
    lines = [_ANSI.sub("", line).replace(f"{file}: ", "").strip() for line in output.splitlines()]
    told = [line for line in lines if line and not line.startswith(("Checking ", "FAILED:"))]
    return "promtool: " + ("; ".join(dict.fromkeys(told)) or "refused the rules without saying why")
