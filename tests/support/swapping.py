"""Revocation lists that are copied over while a study runs, again and again: empty, half or gone for a moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

_BROKEN: tuple[Callable[[Path, bytes], object], ...] = (
    lambda path, content: path.write_bytes(b""),
    lambda path, content: path.write_bytes(content[: len(content) // 2]),
    lambda path, content: path.unlink(),
)


@dataclass
class Swapped:
    """How often every list was broken and put back."""

    times: int = 0


@contextmanager
def swapped(
    lists: Callable[[], list[Path]], broken_seconds: float = 0.05, times_a_second: float = 3
) -> Iterator[Swapped]:
    """Break all ``lists`` that are there, at once, for so long and so often; each is whole again at the end."""
    stop, count, whole = threading.Event(), Swapped(), dict[Path, bytes]()

    def work() -> None:
        for how in cycle(_BROKEN):
            whole.update({path: path.read_bytes() for path in lists() if path not in whole})
            for path, content in whole.items():
                how(path, content)
            stop.wait(broken_seconds)
            for path, content in whole.items():
                path.write_bytes(content)
            count.times += 1
            if stop.wait(1 / times_a_second - broken_seconds):
                return

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield count
    finally:
        stop.set()
        thread.join()
