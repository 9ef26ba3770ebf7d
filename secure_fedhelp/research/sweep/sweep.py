"""A sweep from start to end: what is left to do, doing it, and the tables of everything that is done."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from secure_fedhelp.errors import InvalidConfiguration
from secure_fedhelp.research.sweep.asked import remember
from secure_fedhelp.research.sweep.before import Before, look_ahead
from secure_fedhelp.research.sweep.engines import Outcome
from secure_fedhelp.research.sweep.execute import RunResult
from secure_fedhelp.research.sweep.page import write_page
from secure_fedhelp.research.sweep.runs import Run
from secure_fedhelp.research.sweep.store import Store

#: Executes runs somewhere and gives what comes, in the order in which it comes.
Engine = Callable[[Sequence[Run]], Iterator[Outcome]]
#: Hears of every finished run, of those finished before too; what it raises would end the sweep.
Log = Callable[[RunResult], None]
#: Tables are made of all results each time, so not after each of a thousand runs.
_TABLES_EVERY_SECONDS = 10.0


def sweep(
    runs: Sequence[Run],
    folder: Path,
    engine: Engine,
    told: Callable[[Outcome], None] = lambda outcome: None,
    log: Log = lambda result: None,
    clock: Callable[[], float] = time.monotonic,
    anew: bool = False,
    begun: Callable[[Before], None] = lambda before: None,
) -> list[RunResult]:
    """Do the runs that ``folder`` does not have yet, and write tables and page of all of ``runs`` that are done.

    Tables are written on the way too, so a sweep can be looked at while it goes, and they and the page at its end,
    whatever ends it. ``begun`` hears what is known before the first run, ``told`` of each run that ends; ``clock``
    gives seconds; ``anew`` forgets what ``folder`` has of these runs. A run that cannot be done is told at once.

    Raises InvalidConfiguration if another sweep is at work in the folder, and what data and folder raise.
    """
    with _locked(folder):
        store = Store(folder)
        remember(folder, runs)
        if anew:  # under the lock: not what a sweep at work has just done
            store.forget(runs)
        left = [run for run in runs if not store.done(run)]
        before = look_ahead(left)  # a missing file, or a part nobody can deal, is told before all starts
        begun(before)
        done = {result.run: result for result in store.results(runs)}
        for result in done.values():
            log(result)
        try:
            written = clock()
            for run in left:
                if run.id in before.impossible:
                    told(Outcome(run, None, before.impossible[run.id]))
            left = [run for run in left if run.id not in before.impossible]
            for outcome in engine(left) if left else ():
                if outcome.result is not None:
                    store.keep(outcome.result)
                    done[outcome.result.run] = outcome.result
                    log(outcome.result)
                    if clock() - written >= _TABLES_EVERY_SECONDS:
                        store.write_tables(_in_order(runs, done))
                        written = clock()
                told(outcome)
        finally:
            results = _in_order(runs, done)
            store.write_tables(results)
            write_page(folder, runs, results, before.impossible)
        return results


def _in_order(runs: Sequence[Run], done: Mapping[str, RunResult]) -> list[RunResult]:
    return [done[run.id] for run in runs if run.id in done]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two sweeps in one folder would do the same runs twice."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        hint = "Wait until it has ended, or choose another --out."
        raise InvalidConfiguration(f"another sweep is at work in {folder}", hint) from error
    try:
        yield
    finally:
        os.close(descriptor)
