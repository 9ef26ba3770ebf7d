"""Seconds by stage, for the scripts of this folder: they run in other projects' environments and share nothing else."""

from __future__ import annotations

import time


class Stages:
    """The time since the last call goes to the stage that is named."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def start(self) -> None:
        """Forget the time since the last call."""
        self._since = time.perf_counter()

    def end(self, stage: str, share: float = 1.0) -> None:
        """Add the time since the last call, or a ``share`` of it, to a stage."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + (now - self._since) * share
        self._since = now
