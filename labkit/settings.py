"""What ConfigMap ``lab`` says while the lab runs: where lab time 0 is, and which pressure curve holds.

A service that deals in lab time follows the object with :func:`settings_store`, for a scenario moves lab time 0 when it
starts. What cannot change while a process lives (addresses, tempo, intervals) it has from its environment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from labkit.clock import LabTime
from labkit.errors import InputError
from labkit.kube import CONFIG_MAPS, Kube, Store
from labkit.load import PressureModel
from labkit.names import EPOCH_KEY, LAB_CONFIG_MAP, MONITORING_NAMESPACE, PRESSURE_MODEL_KEY, TEMPO_KEY

__all__ = ["Settings", "read_settings", "settings_store"]

MODELS: Final[Mapping[str, PressureModel]] = {"monotone": "monotone", "seed": "seed"}


@dataclass(frozen=True)
class Settings:
    """The settings that can change while the lab runs.

    Parameters
    ----------
    time : LabTime
        Lab time; before its 0 every load curve holds its value at 0.
    pressure_model : {"monotone", "seed"}
        See :func:`labkit.load.pressure`.
    """

    time: LabTime
    pressure_model: PressureModel = "monotone"


def read_settings(data: Mapping[str, str]) -> Settings:
    """Read the data of the ConfigMap, or an environment made of it.

    Raises
    ------
    InputError
        If a value is missing or makes no sense.
    """
    model = MODELS.get(data.get(PRESSURE_MODEL_KEY, "monotone"))
    if model is None:
        raise InputError(f"wanted {PRESSURE_MODEL_KEY} out of {', '.join(MODELS)}, found {data[PRESSURE_MODEL_KEY]!r}")
    try:
        epoch, tempo = float(data[EPOCH_KEY]), int(data[TEMPO_KEY])
    except (KeyError, ValueError) as exc:
        raise InputError(f"ConfigMap {LAB_CONFIG_MAP}: wanted {EPOCH_KEY} and {TEMPO_KEY}, found {exc}") from exc
    if not math.isfinite(epoch) or tempo < 1:
        raise InputError(f"ConfigMap {LAB_CONFIG_MAP}: wanted a time and a tempo, found {epoch} and {tempo}")
    return Settings(LabTime(epoch, tempo), model)


def settings_store(kube: Kube) -> Store:
    """Return a mirror of the ConfigMap, not yet started."""
    selector = f"metadata.name={LAB_CONFIG_MAP}"
    return Store(kube, CONFIG_MAPS, namespace=MONITORING_NAMESPACE, field_selector=selector)
