"""An experiment lab for load-aware VM rebalancing on Kubernetes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labkit.lab import Lab

__all__ = ["Lab", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import :class:`Lab` when it is asked for: services and the command line need the package without it."""
    if name == "Lab":
        from labkit.lab import Lab

        return Lab
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
