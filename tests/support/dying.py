"""Work for processes that may die. It imports little, for a process that is started anew reads all of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path


def work(item: tuple[str, Path]) -> str:
    """Writes down that it was begun, and then does what its name says."""
    name, folder = item
    with (folder / name).open("a") as begun:
        begun.write("x")
    if name == "killed":
        unlucky = folder / "unlucky"
        _until(lambda: unlucky.exists() and unlucky.read_text() != "")
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "interrupted":
        raise KeyboardInterrupt
    if name == "unlucky":  # the first time it is at work until the other one's death ends it too
        _until(lambda: len((folder / name).read_text()) > 1)
    return name.upper()


def _until(happened: Callable[[], bool]) -> None:
    while not happened():
        signal.sigtimedwait([], 0.01)
