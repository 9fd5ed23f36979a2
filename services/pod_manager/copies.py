"""The memory copies that run now, and the links that they share.

A copy's rate depends on which others use its source's and its target's link, so whenever one begins or ends, all are
brought up to date at their old rates and go on at the new ones. Times here are lab seconds.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from labkit.migration import CopyState, MigrationPolicy, advance, fair_rates, predict

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Transfer:
    """One copy: between which nodes, how far at which lab time, and how fast.

    Parameters
    ----------
    source, target : str
        Node names.
    state : CopyState
        As of ``at``.
    at : float
        Lab seconds.
    rate : float
        Bytes per lab second since then.
    """

    source: str
    target: str
    state: CopyState
    at: float
    rate: float = math.inf

    def until(self, now: float) -> Transfer:
        """Return it at a later lab time."""
        elapsed = max(0.0, now - self.at)
        return replace(self, state=advance(self.state, self.rate, elapsed), at=max(now, self.at))

    @property
    def left_seconds(self) -> float:
        """Return the lab seconds from ``at`` until it ends if its rate stays."""
        return 0.0 if self.state.outcome else predict(self.state, self.rate).seconds


class Copies(Generic[K]):
    """All running copies of the cluster, by key. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._transfers: dict[K, Transfer] = {}

    def begin(
        self,
        key: K,
        transfer: Transfer,
        *,
        policy: MigrationPolicy,
        link_bytes_per_second: float,
    ) -> list[K]:
        """Add a copy; return the keys whose end has moved, its own included."""
        with self._lock:
            self._settle(transfer.at)
            self._transfers[key] = transfer
            self._share(policy, link_bytes_per_second)
            return list(self._transfers)

    def end(self, key: K, now: float, *, policy: MigrationPolicy, link_bytes_per_second: float) -> list[K]:
        """Remove a copy, if it is there; return the keys whose end has moved."""
        with self._lock:
            if key not in self._transfers:
                return []
            self._settle(now)
            del self._transfers[key]
            self._share(policy, link_bytes_per_second)
            return list(self._transfers)

    def at(self, key: K, now: float) -> Transfer | None:
        """Return a copy as it is at a lab time, or None."""
        with self._lock:
            transfer = self._transfers.get(key)
        return None if transfer is None else transfer.until(now)

    def all_at(self, now: float) -> dict[K, Transfer]:
        """Return every copy as it is at a lab time."""
        with self._lock:
            transfers = dict(self._transfers)
        return {key: transfer.until(now) for key, transfer in transfers.items()}

    def _settle(self, now: float) -> None:
        self._transfers = {key: transfer.until(now) for key, transfer in self._transfers.items()}

    def _share(self, policy: MigrationPolicy, link_bytes_per_second: float) -> None:
        transfers = self._transfers
        number = {
            node: index for index, node in enumerate({n for t in transfers.values() for n in (t.source, t.target)})
        }
        rates = fair_rates(
            [number[t.source] for t in transfers.values()],
            [number[t.target] for t in transfers.values()],
            link_bytes_per_second,
            policy,
        )
        self._transfers = {
            key: replace(transfer, rate=float(rate))
            for (key, transfer), rate in zip(transfers.items(), rates, strict=True)
        }
