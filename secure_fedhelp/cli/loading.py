"""How far a long load is: a bar on a terminal, now and then a line in a log, nothing where it is quick."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from secure_fedhelp.cli.plain import plain

#: A load is shown once it has taken so long; a log gets a line each so often.
QUIET_SECONDS, LINE_SECONDS = 1.0, 15.0


class LoadingBar:
    """Takes the calls of a ``Progress`` (data/loaded.py); a context, so that no error leaves a bar behind."""

    def __init__(self, out: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._out, self._clock = out, clock
        self._started = self._said = 0.0
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> LoadingBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        now = self._clock()
        if done == 0:
            self._started = self._said = now
        if done >= total:
            self._stop()
        elif self._out.is_terminal and now - self._started >= QUIET_SECONDS:
            self._show(plain(what), done, total)
        elif not self._out.is_terminal and now - self._said >= LINE_SECONDS:
            self._said = now
            self._out.print(f"loading {plain(what)}: {done / total:.0%}", markup=False)

    def _show(self, what: str, done: int, total: int) -> None:
        if self._bar is None:
            columns = (TextColumn("loading {task.description}", markup=False), BarColumn(24), TaskProgressColumn())
            self._bar = Progress(*columns, TimeRemainingColumn(), console=self._out, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(what[:32], total=total)
        self._bar.update(self._task, completed=done)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
