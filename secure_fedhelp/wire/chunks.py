"""Long values as streams of pieces that can go on at an offset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from secure_fedhelp.errors import CiphertextWrongLength, MessageTooLarge
from secure_fedhelp.wire.messages import CHUNK_BYTES


def pieces(data: bytes, offset: int = 0) -> Iterator[bytes]:
    """``data`` from ``offset`` on, in pieces of at most CHUNK_BYTES; nothing if the offset is the end."""
    view = memoryview(data)
    for start in range(offset, len(data), CHUNK_BYTES):
        yield bytes(view[start : start + CHUNK_BYTES])


def joined_pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Many short values one after another, in pieces of at most CHUNK_BYTES."""
    buffer = bytearray()
    for part in parts:
        buffer += part
        while len(buffer) >= CHUNK_BYTES:
            yield bytes(buffer[:CHUNK_BYTES])
            del buffer[:CHUNK_BYTES]
    if buffer:
        yield bytes(buffer)


class Collector:
    """Bytes that arrive in pieces, never more than ``limit``: what to allocate is ours to say, not the sender's."""

    def __init__(self, limit: int) -> None:
        self._limit, self._data = limit, bytearray()

    def __len__(self) -> int:
        return len(self._data)

    def add(self, piece: bytes) -> None:
        """Raises MessageTooLarge beyond the limit."""
        if len(self._data) + len(piece) > self._limit:
            raise MessageTooLarge(f"more than the {self._limit} bytes that were expected")
        self._data += piece

    def complete(self) -> bytes:
        """All of it; CiphertextWrongLength if the stream ended short of the limit."""
        if len(self._data) != self._limit:
            raise CiphertextWrongLength(f"{len(self._data)} bytes, {self._limit} were expected", "Fetch it again.")
        return bytes(self._data)

    def so_far(self) -> bytes:
        return bytes(self._data)
