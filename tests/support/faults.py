"""A network that breaks: a relay on loopback that ends a connection after a number of bytes."""

from __future__ import annotations

import contextlib
import socket
import threading


class Relay:
    """Relays connections to ``port``. Each limit in ``limits`` ends one connection, the next ones are left alone.

    ``up`` counts bytes to the server, ``down`` bytes to the client.
    """

    def __init__(self, port: int, direction: str, limits: list[int]) -> None:
        self._target, self._direction, self._limits = port, direction, limits
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def cuts_left(self) -> int:
        return len(self._limits)

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            for direction, source, sink in (("up", client, server), ("down", server, client)):
                threading.Thread(target=self._relay, args=(direction, source, sink), daemon=True).start()

    def _relay(self, direction: str, source: socket.socket, sink: socket.socket) -> None:
        passed = 0
        try:
            while data := source.recv(65536):
                passed += len(data)
                if direction == self._direction and self._cut(passed):
                    break
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            _end(end)

    def _cut(self, passed: int) -> bool:
        with self._lock:
            if self._limits and passed > self._limits[0]:
                del self._limits[0]
                return True
        return False


def _end(end: socket.socket) -> None:
    """Close both directions now, whoever else still reads."""
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
