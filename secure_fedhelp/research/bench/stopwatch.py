"""Seconds by stage of one measured round, and the figures of that round."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from secure_fedhelp.research.bench.settings import Setting


class Stopwatch:
    """Adds up seconds by stage, in the order in which stages begin."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time of the block goes to a stage; a stage may come several times."""
        self.seconds.setdefault(name, 0.0)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def add(self, name: str, seconds: float) -> None:
        """Add seconds that were measured elsewhere."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


@dataclass(frozen=True)
class Round:
    """One measured round. ``seconds`` as in results.Result; bytes are one hospital's."""

    seconds: dict[str, float]
    up_bytes: float
    down_bytes: float
    max_error: float
    sanitised_error: float | None = None
    coordinator_peak_mib: float | None = None
    contributions: int = 1
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def critical_path(self) -> float:
        return sum(self.seconds.values())


class Subject(Protocol):
    """One setting that can be measured again and again; everything it needs was made before."""

    @property
    def setting(self) -> Setting: ...

    def measure(self) -> Round: ...
