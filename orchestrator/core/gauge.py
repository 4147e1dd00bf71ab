"""A gauge: a number that a monitoring system reads when it scrapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gauge:
    """``orchestrator_<name>``, with a value for each value of its one label; the label is empty if it has none."""

    name: str
    meaning: str
    label: str
    values: Mapping[str, float]
