"""A running lab in a notebook: scores, placement and migrations as they happen, and two ways to interfere.

:func:`watch` returns a widget. A thread of its own asks the lab and carries out what the reader chooses (another
algorithm, another load of a VM), so the kernel stays free. A live lab is shown as it is; the twin is played from its
tables at a chosen speed, and played anew from the start when something is changed, up to the moment that is shown.
"""

from __future__ import annotations

import copy
import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import anywidget
import numpy as np
import pandas as pd
import traitlets

from labkit.clock import WALL_CLOCK, Clock
from labkit.cluster.algorithm import query_of
from labkit.errors import InputError, LabError
from labkit.experiment import BASELINES
from labkit.lab import DEFAULT_ALGORITHM
from labkit.load import LoadTable
from labkit.plots.style import natural_key
from labkit.scenario import Scenario, parse_scenario
from labkit.scoring import names

log = logging.getLogger(__name__)

SHOWN_MIGRATIONS: Final = 8
Frame = dict[str, Any]
"""What is shown at one moment: ``lab_seconds``, ``algorithm``, ``nodes``, ``vms``, ``migrations``; JSON values only."""


class Source(Protocol):
    """Where a view gets its frames, and what it can ask for."""

    def frame(self) -> Frame:
        """Return what is to be shown now."""

    def use(self, algorithm: str) -> None:
        """Go on with another algorithm."""

    def set_load(self, vms: Sequence[str], cpu: float) -> None:
        """Let VMs use that share of their cores from now on."""


class LiveSource:
    """A lab of real components, as it is at the moment of asking.

    Parameters
    ----------
    lab : labkit.lab.Lab
        A live lab that is up.
    algorithm : str
        Whose scores are shown at first.
    """

    def __init__(self, lab: Any, algorithm: str) -> None:
        self._lab, self._algorithm = lab, algorithm
        self._now = 0.0

    def frame(self) -> Frame:
        """Ask the lab; without descheduling the scores are those of production's algorithm."""
        scores = self._lab.query(query_of(DEFAULT_ALGORITHM if self._algorithm in BASELINES else self._algorithm))
        by_node = dict(zip(scores["instance"], scores["value"], strict=True)) if len(scores) else {}
        table = self._lab.nodes()
        if len(scores):  # else there is no score at the moment, and the time of the last one stands
            self._now = float(scores["time_seconds"].max())
        vms = self._lab.vms()
        return make_frame(
            self._now, self._algorithm, table.assign(score=table["node"].map(by_node)),
            dict(zip(vms["vm"], vms["node"], strict=True)), self._lab.migrations(),
        )  # fmt: skip

    def use(self, algorithm: str) -> None:
        """Switch the descheduler."""
        self._lab.use(algorithm)
        self._algorithm = algorithm

    def set_load(self, vms: Sequence[str], cpu: float) -> None:
        """Give VMs a constant load."""
        for vm in vms:
            self._lab.set_load(vm, cpu)


class TwinSource:
    """A run of the twin, played at a chosen speed.

    Parameters
    ----------
    lab : labkit.lab.Lab
        A lab of backend ``sim``.
    scenario : Scenario
        What is played.
    algorithm : str
        With which algorithm.
    seed : int or None
        The scenario's own without it.
    speed : float
        Lab seconds per second.
    clock : Clock
        For tests.

    Notes
    -----
    A change applies from the moment that is shown: load by a surge in the scenario's timeline; a new algorithm is
    played from the start, so what came before it is what it would have done.
    """

    def __init__(
        self, lab: Any, scenario: Scenario, algorithm: str, *, seed: int | None = None, speed: float = 60.0,
        clock: Clock = WALL_CLOCK,
    ) -> None:  # fmt: skip
        if speed <= 0:
            raise InputError(f"wanted a speed above 0, found {speed}")
        self._lab, self._scenario, self._algorithm, self._seed = lab, scenario, algorithm, seed
        self._speed, self._clock = speed, clock
        self._play()
        self._started = clock.monotonic()

    def _play(self) -> None:
        self._lab.apply(self._scenario, seed=self._seed)
        self._lab.use(self._algorithm)
        self._tables: Mapping[str, pd.DataFrame] = self._lab.run().tables

    def _now(self) -> float:
        return min((self._clock.monotonic() - self._started) * self._speed, self._scenario.duration_seconds)

    def frame(self) -> Frame:
        """Read the tables at the present moment."""
        now = self._now()
        nodes, changes, moves = (self._tables[name] for name in ("nodes", "placement", "migrations"))
        seen = nodes[nodes["time_seconds"] <= now].drop_duplicates("node", keep="last")
        past = changes[changes["time_seconds"] <= now].drop_duplicates("vm", keep="last")
        where = {vm: node for vm, node in zip(past["vm"], past["node"], strict=True) if node}
        return make_frame(now, self._algorithm, seen, where, moves[moves["requested_seconds"] <= now])

    def use(self, algorithm: str) -> None:
        """Play the same with another algorithm."""
        self._algorithm = algorithm
        self._play()

    def set_load(self, vms: Sequence[str], cpu: float) -> None:
        """Give VMs a load from now on, to the end."""
        now = self._now()
        known = {each.name: each for each in self._scenario.expand(self._seed).all_vms}
        left = max(self._scenario.duration_seconds - now, 1.0)
        surges = []
        for vm in vms:
            if vm not in known:
                raise InputError(f"wanted a VM of the scenario, found {vm!r}")
            change = cpu - float(LoadTable([known[vm].curve], [known[vm].load_seed]).at(now)[0][0])
            surges.append(
                {"at": f"{now:.0f}s", "type": "surge", "duration": f"{left:.0f}s", "vms": [vm], "cpu": round(change, 4)}
            )
        document = copy.deepcopy(dict(self._scenario.document))
        document["spec"]["timeline"] = [*document["spec"].get("timeline", []), *surges]
        self._scenario = parse_scenario(document, self._scenario.source)
        self._play()


def make_frame(
    lab_seconds: float, algorithm: str, nodes: pd.DataFrame, where: Mapping[str, str], migrations: pd.DataFrame
) -> Frame:
    """Put what is shown at one moment into JSON values; a missing score is None."""
    rows = [
        {
            "node": str(row["node"]), "score": _value(row["score"]), "cpu": _value(row["cpu_usage"]),
            "memory": _value(row["memory_usage"]),
        }
        for row in sorted(nodes.to_dict("records"), key=lambda row: natural_key(str(row["node"])))
    ]  # fmt: skip
    latest = migrations.sort_values("requested_seconds").tail(SHOWN_MIGRATIONS)
    return {
        "lab_seconds": float(lab_seconds),
        "algorithm": algorithm,
        "nodes": rows,
        "vms": dict(where),
        "migrations_total": len(migrations),
        "migrations": [
            {
                "at": float(row["requested_seconds"]), "vm": str(row["vm"]), "source": str(row["source"]),
                "target": str(row["target"]),
                "done": bool(pd.notna(row["ended_seconds"]) and row["ended_seconds"] <= lab_seconds),
            }
            for row in latest.to_dict("records")
        ],
    }  # fmt: skip


def _value(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None


class View(anywidget.AnyWidget):
    """The widget; :func:`watch` makes it.

    Parameters
    ----------
    source : Source
        Where frames come from.
    algorithms : sequence of str
        To choose from; all that every backend has, and ``none``, without.
    every_seconds : float
        Pause between two looks.
    """

    _esm = traitlets.Unicode("").tag(sync=True)
    frame: Any = traitlets.Dict({}).tag(sync=True)
    algorithms: Any = traitlets.List([]).tag(sync=True)
    message = traitlets.Unicode("").tag(sync=True)

    def __init__(self, source: Source, *, algorithms: Sequence[str] = (), every_seconds: float = 1.0) -> None:
        super().__init__(_esm=_ESM, frame=source.frame(), algorithms=list(algorithms or ("none", *names())))
        self._source, self._every = source, every_seconds
        self._trouble = False
        self._wishes: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self.on_msg(lambda _widget, content, _buffers: self.ask(content))
        self._thread = threading.Thread(target=self._work, name="lab-view", daemon=True)
        self._thread.start()

    def ask(self, wish: Mapping[str, Any]) -> None:
        """Note what the reader wants; it is carried out by the view's own thread."""
        if wish.get("type") == "use":
            self._wishes.put(lambda: self._source.use(str(wish["algorithm"])))
        elif wish.get("type") == "load":
            self._wishes.put(lambda: self._source.set_load(self._vms(wish), float(wish["cpu"])))

    def _vms(self, wish: Mapping[str, Any]) -> list[str]:
        """Return the VM that is meant, or all VMs of the node that is meant, as the last frame has them."""
        if "vm" in wish:
            return [str(wish["vm"])]
        found = sorted(vm for vm, node in self.frame.get("vms", {}).items() if node == wish.get("node"))
        if not found:
            raise InputError(f"wanted a node with VMs to load, found none on {wish.get('node')}")
        return found

    def stop(self) -> None:
        """Stop asking; the last frame stays."""
        self._wishes.put(None)
        self._thread.join(timeout=10)

    def close(self) -> None:
        """Stop asking and take the widget away."""
        self._wishes.put(None)
        super().close()

    def _work(self) -> None:
        while True:
            try:
                wish = self._wishes.get(timeout=self._every)
            except queue.Empty:
                self._look()
                continue
            if wish is None:
                return
            self.message = "working …"
            said = self._try(wish)
            self._look()
            self.message = said

    def _look(self) -> None:
        """Take a new frame; a lab that does not answer is told, until it does again."""

        def take() -> None:
            self.frame = self._source.frame()

        said = self._try(take)
        if said or self._trouble:
            self.message = said
        self._trouble = bool(said)

    @staticmethod
    def _try(action: Callable[[], None]) -> str:
        """Do something; return what went wrong, and never let it end the view's thread."""
        try:
            action()
        except LabError as exc:
            return str(exc)
        except Exception as exc:
            log.exception("the view")
            return f"{type(exc).__name__}: {exc}"
        return ""


def watch(
    lab: Any,
    *,
    scenario: Scenario | None = None,
    algorithm: str | None = None,
    seed: int | None = None,
    speed: float = 60.0,
    every_seconds: float = 1.0,
) -> View:
    """Show a lab.

    Parameters
    ----------
    lab : labkit.lab.Lab
        A :class:`labkit.lab.Lab` that is up.
    scenario : Scenario, optional
        What the twin plays; a live lab shows what runs.
    algorithm : str, optional
        Whose scores are shown first, on the twin also what is played; what the lab goes by without it.
    seed : int, optional
        Of the twin's run.
    speed : float
        Of the twin, lab seconds per second.
    every_seconds : float
        Pause between two looks.

    Raises
    ------
    InputError
        If the twin is to be shown without a scenario.
    """
    source: Source
    algorithm = algorithm or lab.algorithm()
    if lab.backend == "sim":
        if scenario is None:
            raise InputError("wanted a scenario for the twin to play: watch(lab, scenario=load_scenario('quickstart'))")
        source = TwinSource(lab, scenario, algorithm, seed=seed, speed=speed)
    else:
        source = LiveSource(lab, algorithm)
    return View(source, every_seconds=every_seconds)


_ESM: Final = """
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#4D4D4D", "#A59C00"];
const DASHES = ["", "7 3", "7 3 2 3", "2 3"];
const MOST = 40;  // nodes: more lines cannot be told apart, and slow the browser down
const dash = i => DASHES[(Math.floor(i / 8) + i) % 4];
const element = (name, attributes = {}, text = "") => {
  const made = document.createElement(name);
  Object.assign(made, attributes);
  if (text) made.textContent = text;
  return made;
};
function chart(title, key, history, nodes, place) {
  const width = 420, height = 170, left = 34, bottom = 20, top = 22, right = 8;
  const first = history[0].lab_seconds, last = history[history.length - 1].lab_seconds;
  const x = t => left + (width - left - right) * (last > first ? (t - first) / (last - first) : 1);
  const y = v => height - bottom - (height - bottom - top) * Math.min(Math.max(v, 0), 1);
  let out = `<text x="${left}" y="14" font-weight="bold">${title}</text>`;
  for (const v of [0, 0.5, 1]) {
    out += `<line x1="${left}" x2="${width - right}" y1="${y(v)}" y2="${y(v)}" stroke="#ddd"/>`;
    out += `<text x="4" y="${y(v) + 4}">${v}</text>`;
  }
  nodes.forEach(node => {
    const points = [];
    for (const frame of history) {
      const row = frame.rows.get(node);
      if (row && row[key] !== null) points.push(`${x(frame.lab_seconds).toFixed(1)},${y(row[key]).toFixed(1)}`);
    }
    const i = place.get(node), look = `stroke="${COLOURS[i % 8]}" stroke-dasharray="${dash(i)}" stroke-width="1.8"`;
    out += `<polyline points="${points.join(" ")}" fill="none" ${look}/>`;
  });
  out += `<text x="${width - right}" y="${height - 4}" text-anchor="end">${(last / 60).toFixed(1)} lab min</text>`;
  const size = `viewBox="0 0 ${width} ${height}" style="flex: 1 1 360px; max-width: 560px" font-size="11"`;
  return `<svg role="img" aria-label="${title}" ${size}>${out}</svg>`;
}
function render({ model, el }) {
  const history = [];
  const root = element("div", { className: "labkit-view" });
  root.style.cssText = "font: 13px system-ui, sans-serif; color: #222; background: #fff; padding: 8px";
  const head = element("div"), charts = element("div"), placement = element("div"), moves = element("div");
  const chooser = element("select", { className: "labkit-algorithm" });
  for (const name of model.get("algorithms")) chooser.append(element("option", { value: name }, name));
  chooser.onchange = () => model.send({ type: "use", algorithm: chooser.value });
  const vm = element("select", { className: "labkit-vm" });
  const load = element("input", { type: "range", min: 0, max: 1, step: 0.05, value: 0.5, className: "labkit-load" });
  const share = element("output", { className: "labkit-share" });
  const showShare = () => { share.textContent = `${Math.round(100 * load.value)} %`; };
  load.oninput = showShare;
  showShare();
  for (const [control, words] of [[chooser, "algorithm"], [vm, "whose load"], [load, "load, share of the VM's cores"]])
    control.setAttribute("aria-label", words);
  load.onchange = () => {
    showShare();
    const [kind, name] = vm.value.split(/:(.*)/);
    model.send({ type: "load", [kind]: name, cpu: Number(load.value) });
  };
  const clock = element("b", { className: "labkit-clock" }), message = element("span", { className: "labkit-message" });
  message.style.color = "#b34700";
  head.append(clock, " algorithm ", chooser, " load of ", vm, " ", load, share, " ", message);
  charts.style.cssText = "display: flex; flex-wrap: wrap; gap: 8px; margin: 6px 0";
  placement.style.cssText = "display: grid; grid-template-columns: max-content 1fr; gap: 3px 8px; align-items: center";
  root.append(head, charts, placement, moves);
  el.append(root);
  let offered = "";
  const draw = () => {
    const frame = model.get("frame");
    if (!frame.nodes) return;
    if (history.length && frame.lab_seconds < history[history.length - 1].lab_seconds) history.length = 0;
    history.push({ lab_seconds: frame.lab_seconds, rows: new Map(frame.nodes.map(n => [n.node, n])) });
    if (history.length > 600) history.shift();
    const place = new Map(frame.nodes.map((n, i) => [n.node, i]));
    const fullest = frame.nodes.slice().sort((a, b) => b.cpu - a.cpu).slice(0, MOST).map(n => n.node);
    const nodes = frame.nodes.map(n => n.node).filter(name => frame.nodes.length <= MOST || fullest.includes(name));
    const of = frame.nodes.length > MOST ? `, ${MOST} fullest of ${frame.nodes.length} nodes` : "";
    clock.textContent = `${(frame.lab_seconds / 60).toFixed(1)} min, ${frame.migrations_total} migrations,`;
    if (frame.algorithm && ![...chooser.options].some(option => option.value === frame.algorithm))
      chooser.append(element("option", { value: frame.algorithm }, frame.algorithm));
    if (document.activeElement !== chooser) chooser.value = frame.algorithm;
    const known = Object.keys(frame.vms).sort();
    const targets = [...nodes.map(name => `node:${name}`), ...known.map(name => `vm:${name}`)];
    if (offered !== targets.join(" ")) {
      offered = targets.join(" ");
      const chosen = vm.value;
      const words = target => target.startsWith("node:") ? `all VMs of ${target.slice(5)}` : target.slice(3);
      vm.replaceChildren(...targets.map(target => element("option", { value: target }, words(target))));
      if (targets.includes(chosen)) vm.value = chosen;
    }
    charts.innerHTML = chart(`Score${of}`, "score", history, nodes, place)
      + chart(`CPU use${of}`, "cpu", history, nodes, place);
    placement.replaceChildren();
    const on = new Map(nodes.map(node => [node, []]));
    for (const name of known) on.get(frame.vms[name])?.push(name);
    nodes.forEach(node => {
      const here = on.get(node), i = place.get(node);
      const label = element("span");
      const look = `stroke="${COLOURS[i % 8]}" stroke-dasharray="${dash(i)}" stroke-width="2.5"`;
      label.innerHTML = `<svg width="26" height="8"><line x2="26" y1="4" y2="4" ${look}/></svg> `;
      label.append(element("b", {}, `${node} (${here.length})`));
      const cells = element("span");
      cells.style.cssText = "display: flex; flex-wrap: wrap; gap: 2px";
      for (const name of here) {
        const cell = element("i", { title: name });
        cell.style.cssText = `width: 9px; height: 9px; background: ${COLOURS[i % 8]}`;
        cells.append(cell);
      }
      placement.append(label, cells);
    });
    const told = m => `${(m.at / 60).toFixed(1)} min  ${m.vm}: ${m.source} → ${m.target}${m.done ? "" : " …"}`;
    const line = m => element("div", { className: "labkit-migration" }, told(m));
    moves.replaceChildren(...frame.migrations.slice().reverse().map(line));
  };
  const say = () => { message.textContent = model.get("message"); };
  model.on("change:frame", draw);
  model.on("change:message", say);
  draw();
  say();
  return () => { model.off("change:frame", draw); model.off("change:message", say); };
}
export default { render };
"""
