"""Who waits in a simulation, and a coordinator's clock that does not: nobody waits for what nobody will bring.

A deployed coordinator gives a hospital that is silent its time, an hour at the start: it may be restarting. In a
simulation a hospital whose thread has ended comes no more, and one that waits does nothing until the study goes on. So
when all that live have waited a whole watch without news, only a deadline can change anything, and it is brought here:
the coordinator's clock is put past it, and its own rules decide what follows, as they would after that time.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from secure_fedhelp.coordinator.transitions import deadline
from secure_fedhelp.errors import StudyEnded
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.wire.messages import Phase

_HINT = "Everything of this run is thrown away; simulate the study by itself to see what the hospital said."


@dataclass
class _Watch:
    """What one hospital last asked: the version that it knows, whether it still waits, and how often in vain."""

    version: int = -1
    phase: str = ""
    waits: bool = False
    in_vain: int = 0


class Waiting:
    """The watches of all hospitals of one simulation, and the coordinator's clock."""

    def __init__(self, plan: StudyPlan, clock: Callable[[], float] = time.time) -> None:
        self._plan, self._clock, self._ahead = plan, clock, 0.0
        self._lock = threading.Lock()
        self._watches: dict[str, _Watch] = {}
        self._ended: str | None = None

    def clock(self) -> float:
        """Unix seconds, and the time that nobody had to wait."""
        with self._lock:
            return self._clock() + self._ahead

    def end(self, reason: str) -> None:
        """Every call from now on is answered by StudyEnded."""
        self._ended = reason

    def of(self, service: object, hospital: str) -> object:
        """The coordinator's handlers for one hospital."""
        return _Handlers(self, service, hospital)

    def look(self, living: Collection[str]) -> bool:
        """Pass the present deadline if all hospitals that live only wait for it; whether it did."""
        with self._lock:
            watches = [self._watches.get(name, _Watch()) for name in living]
            if not watches or not all(watch.waits and watch.in_vain for watch in watches):
                return False
            if len({watch.version for watch in watches}) > 1:
                return False
            length = deadline(self._plan, Phase(watches[0].phase), 0.0)
            if not math.isfinite(length):
                return False
            self._ahead += length
            for watch in watches:
                watch.in_vain = 0
            return True

    # -- what the handlers tell --------------------------------------------------------------------------------------

    def require_going_on(self) -> None:
        if self._ended is not None:
            raise StudyEnded(self._ended, _HINT)

    def begins(self, hospital: str, version: int) -> None:
        with self._lock:
            watch = self._watches.setdefault(hospital, _Watch())
            watch.waits = True
            if watch.version != version:
                watch.version, watch.in_vain = version, 0

    def hears(self, hospital: str, version: int, phase: str) -> None:
        with self._lock:
            watch = self._watches[hospital]
            watch.waits, watch.phase = False, phase
            watch.in_vain = watch.in_vain + 1 if watch.version == version else 0


class _Handlers:
    """Passes every call on, and tells of watches."""

    def __init__(self, waiting: Waiting, service: object, hospital: str) -> None:
        self._waiting, self._service, self._hospital = waiting, service, hospital

    def __getattr__(self, method: str) -> Any:
        self._waiting.require_going_on()
        handler = getattr(self._service, method)
        return self._watch(handler) if method == "Watch" else handler

    def _watch(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        def call(request: Any, context: Any) -> Any:
            self._waiting.begins(self._hospital, request.known_version)
            state = handler(request, context)
            self._waiting.hears(self._hospital, state.version, state.phase)
            return state

        return call
