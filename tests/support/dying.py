"""Work for processes that may die. It imports little, for a process that is started anew reads all of it."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path


def work(item: tuple[str, Path]) -> str:
    """Writes down that it was begun, and then does what its name says."""
    name, folder = item
    if name == "waits":
        (folder / "pid").write_text(str(os.getpid()))
        threading.Event().wait()
    with (folder / name).open("a") as begun:
        begun.write("x")
    once = len((folder / name).read_text()) == 1
    if name == "killed" or (name == "killed once" and once):
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "interrupted":
        raise KeyboardInterrupt
    return name.upper()
