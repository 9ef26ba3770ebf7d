"""A sweep from start to end: what is left to do, doing it, and the tables of everything that is done."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from secure_fedhelp.errors import FedHelpError, InvalidConfiguration
from secure_fedhelp.learning.trial import try_networks
from secure_fedhelp.research.catalog import StudyData
from secure_fedhelp.research.own_data import study_data
from secure_fedhelp.research.plans import study_plan
from secure_fedhelp.research.sweep.asked import remember
from secure_fedhelp.research.sweep.engines import Outcome
from secure_fedhelp.research.sweep.execute import RunResult
from secure_fedhelp.research.sweep.page import write_page
from secure_fedhelp.research.sweep.runs import DEALT_BY, RIVALS, Run
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
) -> list[RunResult]:
    """Do the runs that ``folder`` does not have yet, and write tables and page of all of ``runs`` that are done.

    Tables are written on the way too, so a sweep can be looked at while it goes, and they and the page at its end,
    whatever ends it. ``told`` hears of each run that ends; ``clock`` gives seconds; ``anew`` forgets what ``folder``
    has of these runs. Raises InvalidConfiguration if
    another sweep is at work in the folder, and what data and folder raise.
    """
    with _locked(folder):
        store = Store(folder)
        remember(folder, runs)
        if anew:  # under the lock: not what a sweep at work has just done
            store.forget(runs)
        left = [run for run in runs if not store.done(run)]
        for dealings in _by_dealing(left):
            data = _require_data(dealings)  # a missing file, or a part nobody can deal, is told before all starts
            _require_networks([run for run in left if _dealing(run) == _dealing(dealings[0])], data)
        done = {result.run: result for result in store.results(runs)}
        for result in done.values():
            log(result)
        try:
            written = clock()
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
            write_page(folder, runs, results)
        return results


def _in_order(runs: Sequence[Run], done: Mapping[str, RunResult]) -> list[RunResult]:
    return [done[run.id] for run in runs if run.id in done]


def _by_dealing(runs: Sequence[Run]) -> list[list[Run]]:
    """One run of each seed, for every way in which the study's data are dealt."""
    found: dict[str, dict[int, Run]] = {}
    for run in runs:
        found.setdefault(_dealing(run), {}).setdefault(run.study.seed, run)
    return [list(seeds.values()) for seeds in found.values()]


def _dealing(run: Run) -> str:
    return run.study.model_dump_json(include=DEALT_BY)


def _require_networks(runs: Sequence[Run], data: StudyData) -> None:
    """UnsupportedModel, naming the layer, if a network that one of ``runs`` trains cannot be trained."""
    tried = set[str]()
    for run in runs:
        networks = run.study.model_dump_json(include={"model", "method"})
        if run.contender not in RIVALS and networks not in tried:
            tried.add(networks)
            try_networks(study_plan(run.study.model_copy(update={"epsilon": None}), data))


def _require_data(dealings: Sequence[Run]) -> StudyData:
    """The data of the first of these that can be dealt. Raise what is wrong with the data of all; where one seed alone
    cannot be dealt, its runs will say so."""
    first: FedHelpError | None = None
    for run in dealings:
        try:
            return study_data(run.study, run.data_dir)
        except FedHelpError as error:
            first = first or error
    raise first or AssertionError("a dealing has at least one run")


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
