"""One stream of a kind for each hospital: a newer one takes the place of the older.

After a network failure the hospital is back before the server has noticed that the old connection is dead. The new
stream must not wait for the old, nor may both write. (That a hospital cannot fill the thread pool is for calls.py.)
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from secure_fedhelp.errors import ProtocolError


class Streams:
    """The live streams by hospital and kind. Safe to call from several threads."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._lock = threading.Lock()
        self._live: dict[tuple[str, str], grpc.ServicerContext] = {}
        self._turns = {name: threading.Lock() for name in names}

    @contextmanager
    def only(self, name: str, kind: str, context: grpc.ServicerContext) -> Iterator[None]:
        """Around a stream: cancels the hospital's older stream of this kind, if there is one."""
        with self._lock:
            older = self._live.get((name, kind))
            self._live[name, kind] = context
        if older is not None:
            older.cancel()  # type: ignore[no-untyped-call]  # the stubs leave it out
        try:
            yield
        finally:
            with self._lock:
                if self._live.get((name, kind)) is context:
                    del self._live[name, kind]

    @contextmanager
    def turn(self, name: str, kind: str, context: grpc.ServicerContext) -> Iterator[None]:
        """Around one write of a stream: one at a time for each hospital, and none of a stream that was replaced."""
        with self._turns[name]:
            if self._live.get((name, kind)) is not context:
                raise ProtocolError("a newer upload of this hospital took the place of this one")
            yield
