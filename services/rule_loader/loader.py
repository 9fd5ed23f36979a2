"""Keep the folder that Prometheus reads in step with the PrometheusRule objects.

Each object is one file, written whole and renamed into place, and only after promtool has passed it: whatever gets by
the webhook, Prometheus never sees a file that it could not load, and what ran before keeps running.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from labkit.errors import InputError
from labkit.names import EVALUATION_INTERVAL_KEY, SCRAPE_INTERVAL_KEY
from services.rule_loader.logic import RULES_FOLDER, Check, Object, file_name, render_config, rule_text

logger = logging.getLogger(__name__)

Report = Callable[[Object, str, str], None]
"""Tells about an object: reason (``RulesLoaded`` or ``RulesRefused``) and message."""


@dataclass
class RuleFolder:
    """Prometheus' configuration folder.

    Parameters
    ----------
    path : Path
        The folder; ``prometheus.yml`` and ``rules/`` are in it.
    tempo : int
        The lab's.
    check : callable
        Asks promtool.
    report : callable
        Tells about an object whose rules changed.
    """

    path: Path
    tempo: int
    check: Check
    report: Report
    _refused: dict[str, str] = field(default_factory=dict)

    def write_config(self, template: str, environment: Mapping[str, str]) -> None:
        """Write Prometheus' configuration; intervals come from the lab's environment."""
        text = render_config(
            template,
            scrape_interval=environment[SCRAPE_INTERVAL_KEY],
            evaluation_interval=environment[EVALUATION_INTERVAL_KEY],
            tempo=self.tempo,
        )
        _write_if_changed(self.path / "prometheus.yml", text)

    def sync(self, objects: Sequence[Object]) -> None:
        """Write what is new or changed, remove what is gone, leave the rest untouched."""
        folder = self.path / RULES_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        wanted = {file_name(obj): obj for obj in objects}
        for file in folder.glob("*.yaml"):
            if file.name not in wanted:
                file.unlink()
                logger.info("removed %s", file.name)
        self._refused = {name: text for name, text in self._refused.items() if name in wanted}
        for name, obj in wanted.items():
            self._write(folder / name, obj)

    def _write(self, file: Path, obj: Object) -> None:
        found: str | None = None
        try:
            text = rule_text(obj, tempo=self.tempo)
        except InputError as error:
            text = found = str(error)
        if found is None and file.exists() and file.read_text() == text:
            self._refused.pop(file.name, None)
            return
        if self._refused.get(file.name) == text:
            return  # told already
        found = found or self.check(text)
        if found is not None:
            self._refused[file.name] = text
            kept = "its former rules stay" if file.exists() else "none of its rules is loaded"
            logger.error("%s is refused, %s: %s", file.name, kept, found)
            self.report(obj, "RulesRefused", f"{kept}: {found}")
            return
        self._refused.pop(file.name, None)
        _write_if_changed(file, text)
        logger.info("wrote %s", file.name)
        self.report(obj, "RulesLoaded", f"written for Prometheus at tempo {self.tempo}")


def _write_if_changed(file: Path, text: str) -> None:
    if file.exists() and file.read_text() == text:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.new")  # begins with a dot: no pattern of rule_files matches it
    fresh.write_text(text)
    os.replace(fresh, file)
